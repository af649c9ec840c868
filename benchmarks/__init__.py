"""Everything side by side in one run: `make bench`, `make bench-full`; never part of an installed maskserve.

    run.py       which rows, in which order ─▶ results.json ─▶ docs/benchmarks.md, docs/benchmarks/*.svg
    rows/        one file for each group of rows: what is claimed, how it is measured
    peers/       what others do, re-created as their users write it
    ours/        the same work done by maskserve
    subject.py   a process of its own for whatever is timed; bench.py what all rows share
    rounds.py    all subjects once in each round, in turns; a ratio for each round; no run is ever dropped
    models.py    full-size networks with seeded weights, drawn photos
    servers.py, clients.py   start and stop a server; load it
    results.py, table.py, plots.py, document.py   what came out, as data, text and pictures

Run from the repository's root as `python -m benchmarks.run`; modules are imported as `benchmarks.…`, like `tests.…`.
"""
