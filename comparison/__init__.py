"""Two trained arms on the same photos: statistics, cost, pictures, verdict; one page and one JSON file.

results.py       what a comparison says, as plain values (the JSON's shape)
run.py           the pipeline: runs and data ─▶ answers ─▶ statistics ─▶ cost ─▶ served ─▶ verdict ─▶ files
arms.py          a run folder or an archive ─▶ predictor, and what it is in words
origin.py        which data set and split the photos are
cost.py          latency in turns, sizes; memory.py: peak memory of a fresh process
served.py        AP of what TorchServe answers, beside the offline AP
statistics.py    answers and labels ─▶ AP (average_precision.py) and its paired bootstrap (paired_bootstrap.py),
                 curves, calibration.py, outcomes.py (confusion, each photo's quality)
verdict.py       one sentence; findings.py: who is ahead; sample_size.py: photos needed; reasons.py
cautions.py      what a reader must know before believing the difference
pictures.py, plots.py, page.py, templates/       the page
"""
