"""Waitress with nothing behind it: `python -m benchmarks.peers.echo PORT THREADS` sends every body back."""

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

    return app


if __name__ == "__main__":
    serve(create_app(), host="127.0.0.1", port=int(sys.argv[1]), threads=int(sys.argv[2]))
