"""Waitress with the smallest handlers there are: `python -m benchmarks.peers.echo PORT THREADS`.

/echo      sends every body back, unread
/upload    reads the multipart file `image`, as the gateway does, and sends its bytes back
"""

from __future__ import annotations

import sys

from flask import Flask, Response, request
from waitress import serve


def create_app() -> Flask:
    app = Flask(__name__)

    @app.get("/")
    def index() -> str:
        return "ok"

    @app.post("/echo")
    def echo() -> Response:
        return Response(request.get_data(), content_type="application/octet-stream")

    @app.post("/upload")
    def upload() -> Response:
        return Response(request.files["image"].read(), content_type="application/octet-stream")

    return app


if __name__ == "__main__":
    serve(create_app(), host="127.0.0.1", port=int(sys.argv[1]), threads=int(sys.argv[2]))
