"""Pixels: what the worker, the gateway and the trainer must all do alike, once.

    header.py   bytes ─▶ format, mode, size; nothing is decoded, bombs are refused in milliseconds
    jpeg.py     bytes ─▶ number of scans: some JPEGs are made to be slow
    decode.py   bytes ─▶ RGB pixels, upright
    masks.py    mask probabilities ─▶ COCO RLE; coverage
    rle.py      COCO RLE ◀─▶ pixels; polygons, IoU
    fonts.py    fonts for pictures; letters.py renders what recurs, paint.py lays it on
    overlay.py  pixels + answer ─▶ a picture for people
    encode.py   RGB pixels ─▶ a PNG or JPEG file

Every coordinate, size and mask is of the image after its EXIF orientation was applied. Imports no torch.
"""
