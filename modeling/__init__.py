"""What a model is: the MobileNetV2 backbone, the config, the batch predictor, the answer.

config.py        Detectron2's config with our keys
mobilenetv2.py   bottom-up network for Detectron2's registry
predictor.py     RGB photos ─▶ instances in original pixels
answer.py        instances ─▶ the contract's Segmentation
"""

import warnings

# Detectron2 0.6 on today's torch: said on import and on the first forward, and nothing a user could act on
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release", UserWarning)
