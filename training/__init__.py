"""From labels to archives.

datasets/    photos and labels ─▶ COCO manifests
presets.py   base ─▶ arm ─▶ preset ─▶ initial weights ─▶ one resolved config
weights.py   initial weights: found, fetched (fetch.py), read safely (safe_pickle.py), renamed (naming.py)
train.py     the whole training of one arm: loader.py, trainer.py, hooks.py, run_folder.py, curves.py
quick_parts.py  what trains faster on a CPU: rpn_head.py, depthwise.py
evaluate.py  COCO AP of the predictor that is served; evaluation_run.py, samples.py
package.py   run folder ─▶ model archive
"""

import maskserve.modeling  # noqa: F401  (quiets Detectron2's import, see there)
