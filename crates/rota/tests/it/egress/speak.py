"""A client of gRPC: one call, and one on which each message waits for the answer to the one before."""

import os
import queue

import grpc

key = os.environ.get("API_KEY")
metadata = [("authorization", "Bearer " + key)] if key else []
channel = grpc.secure_channel("grpc.example:443", grpc.ssl_channel_credentials())
answer, call = channel.unary_unary("/rota.Test/Say").with_call(b"one message", metadata=metadata, timeout=100)
print(answer.decode(), dict(call.trailing_metadata())["x-told"])
messages = queue.Queue()
answers = channel.stream_stream("/rota.Test/Talk")(iter(messages.get, None), metadata=metadata, timeout=100)
for message in (b"first", b"second", b"third"):
    messages.put(message)
    print(next(answers).decode())
messages.put(None)
print(list(answers))
