"""Load on a running gateway, and what its users would have seen: an open-loop generator with a report per arm.

photos.py   a folder ─▶ uploads             schedule.py  rate, seed ─▶ when each request is due
sending.py  one upload ─▶ its outcome       run.py       schedule × uploads ─▶ samples, in threads
summary.py  samples ─▶ rates, percentiles   plot.py      latency over load, as a picture

Open loop: requests leave when they are due, however slow the answers are, and a request's latency counts from the
moment it was due. A generator that waits for answers first sends less to a slow server and so hides how slow it is.
"""
