"""What a model is: the networks, the config, what it costs, the batch predictor, the answer.

config.py        Detectron2's config with our keys
network.py       which network a config asks for, and what follows from it
mobilenetv2.py   bottom-up network for Detectron2's registry
lite.py          Mask R-CNN with depthwise-separable FPN and heads, for the same
complexity.py    parameters and FLOPs, part by part
openvino_trunk.py  backbone, FPN and RPN head in int8; int8_pyramid.py  without the last convolutions of FPN and RPN
predictor.py     RGB photos ─▶ instances in original pixels
answer.py        instances ─▶ the contract's Segmentation

loading.py             config, weights ─▶ a network, without initialising what is overwritten
process.py             how a process that answers photos is set up
machine.py             cores, memory and folder that it may use
compiled.py            loops that numba compiles (kernels.py): ROIAlign (roi_align.py), suppression.py
torchvision_import.py  keeps torch's compiler out of a worker
"""

import warnings

# Detectron2 0.6 on today's torch: said on import and on the first forward, and nothing a user could act on
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release", UserWarning)
