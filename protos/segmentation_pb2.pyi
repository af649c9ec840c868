from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MaskFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MASK_FORMAT_UNSPECIFIED: _ClassVar[MaskFormat]
    MASK_FORMAT_RLE: _ClassVar[MaskFormat]
    MASK_FORMAT_NONE: _ClassVar[MaskFormat]

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_CODE_UNSPECIFIED: _ClassVar[ErrorCode]
    IMAGE_MISSING: _ClassVar[ErrorCode]
    IMAGE_UNSUPPORTED: _ClassVar[ErrorCode]
    IMAGE_UNREADABLE: _ClassVar[ErrorCode]
    IMAGE_TOO_LARGE: _ClassVar[ErrorCode]
    OPTIONS_INVALID: _ClassVar[ErrorCode]
    RESPONSE_TOO_LARGE: _ClassVar[ErrorCode]
    INFERENCE_FAILED: _ClassVar[ErrorCode]
    OUT_OF_MEMORY: _ClassVar[ErrorCode]
MASK_FORMAT_UNSPECIFIED: MaskFormat
MASK_FORMAT_RLE: MaskFormat
MASK_FORMAT_NONE: MaskFormat
ERROR_CODE_UNSPECIFIED: ErrorCode
IMAGE_MISSING: ErrorCode
IMAGE_UNSUPPORTED: ErrorCode
IMAGE_UNREADABLE: ErrorCode
IMAGE_TOO_LARGE: ErrorCode
OPTIONS_INVALID: ErrorCode
RESPONSE_TOO_LARGE: ErrorCode
INFERENCE_FAILED: ErrorCode
OUT_OF_MEMORY: ErrorCode

class SegmentOptions(_message.Message):
    __slots__ = ("score_threshold", "max_instances", "mask_format", "class_names")
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_INSTANCES_FIELD_NUMBER: _ClassVar[int]
    MASK_FORMAT_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    score_threshold: float
    max_instances: int
    mask_format: MaskFormat
    class_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, score_threshold: _Optional[float] = ..., max_instances: _Optional[int] = ..., mask_format: _Optional[_Union[MaskFormat, str]] = ..., class_names: _Optional[_Iterable[str]] = ...) -> None: ...

class SegmentReply(_message.Message):
    __slots__ = ("segmentation", "error", "request_id")
    SEGMENTATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    segmentation: Segmentation
    error: Error
    request_id: str
    def __init__(self, segmentation: _Optional[_Union[Segmentation, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class Segmentation(_message.Message):
    __slots__ = ("height", "width", "instances", "coverage", "model", "timings")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    instances: _containers.RepeatedCompositeFieldContainer[Instance]
    coverage: Coverage
    model: Model
    timings: Timings
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., instances: _Optional[_Iterable[_Union[Instance, _Mapping]]] = ..., coverage: _Optional[_Union[Coverage, _Mapping]] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class Instance(_message.Message):
    __slots__ = ("class_id", "class_name", "score", "box_xyxy", "mask_rle_counts", "area_px")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BOX_XYXY_FIELD_NUMBER: _ClassVar[int]
    MASK_RLE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    AREA_PX_FIELD_NUMBER: _ClassVar[int]
    class_id: int
    class_name: str
    score: float
    box_xyxy: _containers.RepeatedScalarFieldContainer[float]
    mask_rle_counts: str
    area_px: int
    def __init__(self, class_id: _Optional[int] = ..., class_name: _Optional[str] = ..., score: _Optional[float] = ..., box_xyxy: _Optional[_Iterable[float]] = ..., mask_rle_counts: _Optional[str] = ..., area_px: _Optional[int] = ...) -> None: ...

class Coverage(_message.Message):
    __slots__ = ("total", "by_class")
    class ByClassEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    BY_CLASS_FIELD_NUMBER: _ClassVar[int]
    total: float
    by_class: _containers.ScalarMap[str, float]
    def __init__(self, total: _Optional[float] = ..., by_class: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "backbone", "precision", "archive_digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    backbone: str
    precision: str
    archive_digest: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., backbone: _Optional[str] = ..., precision: _Optional[str] = ..., archive_digest: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("decode_ms", "preprocess_ms", "inference_ms", "postprocess_ms", "total_ms", "batch_size")
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_MS_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_MS_FIELD_NUMBER: _ClassVar[int]
    POSTPROCESS_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    decode_ms: float
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float
    total_ms: float
    batch_size: int
    def __init__(self, decode_ms: _Optional[float] = ..., preprocess_ms: _Optional[float] = ..., inference_ms: _Optional[float] = ..., postprocess_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., batch_size: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "field")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    code: ErrorCode
    message: str
    field: str
    def __init__(self, code: _Optional[_Union[ErrorCode, str]] = ..., message: _Optional[str] = ..., field: _Optional[str] = ...) -> None: ...
