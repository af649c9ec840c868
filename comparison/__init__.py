"""Two trained arms on the same photos: statistics, cost, pictures, verdict; one page and one JSON file.

results.py       what a comparison says, as plain values (the JSON's shape)
statistics.py    answers and labels ─▶ AP (average_precision.py) and its paired bootstrap (paired_bootstrap.py),
                 curves, calibration.py, outcomes.py (confusion, each photo's quality)
verdict.py       one sentence; findings.py: who is ahead; sample_size.py: photos needed; reasons.py
"""
