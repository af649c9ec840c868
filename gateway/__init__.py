"""REST in front of TorchServe: photo in, JSON or picture out, one of two arms chosen by user.

request ─▶ upload.py (photo, parameters) ─▶ routing.py (arm, why) ─▶ dispatch.py (ask, or the other arm)
        ─▶ answers.py (JSON) | drawing.py (picture) ─▶ responses.py | problems.py (what went wrong)

settings.py    maskserve.toml            app.py, routes.py   the Flask application
matching.py    two answers compared      serve.py, wsgi.py   waitress, signals
readiness.py   which arms are ready      openapi.py, schemas.py   the API's description
breaker.py     arms left alone           admission.py        when an arm has too much to do
metrics.py     counters
page/          the page at /, without a build step
"""
