"""What runs inside a TorchServe worker.

    mask_rcnn.py   the entry that TorchServe loads: one class, initialize and handle
    archive.py     what the archive says about its model, and how many threads to use
    request.py     one row of TorchServe's batch ─▶ photo, options
    batch.py       photos ─▶ one forward ─▶ an outcome per image; the only place where errors are caught
    reply.py       outcome ─▶ bytes, never more than TorchServe can carry
    telemetry.py   metrics and log lines

An archive holds a copy of this package (without the entry, which stands at the archive's root) and of
maskserve.{modeling, imaging, protos}; nothing else of maskserve may be imported here.
"""
