"""A model that takes its time, for the SDK suites: an upstream that speaks the Messages API and sends each reply in pieces."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Iterator

WORDS = ["Give", " me", " a", " moment", ":", " here", " is", " your", " answer", "."]
"""The pieces of each reply."""
PIECE_S = 0.05
"""The time between two pieces."""
USAGE = {"input_tokens": 10, "output_tokens": len(WORDS)}


def reply() -> Iterator[dict[str, Any]]:
    """The events of one reply, each when it is due."""
    message = {"id": "msg_slow", "type": "message", "role": "assistant", "model": "slow", "content": [], "usage": USAGE}
    yield {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None}}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for word in WORDS:
        time.sleep(PIECE_S)
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": USAGE}
    yield {"type": "message_stop"}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            for event in reply():
                self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass  # Rota has given the request up.

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def slow_model() -> Iterator[str]:
    """Its base URL, while it answers."""
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    upstream.daemon_threads = True
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{upstream.server_port}"
    finally:
        upstream.shutdown()
        upstream.server_close()
