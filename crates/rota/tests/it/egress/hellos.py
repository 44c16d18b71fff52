"""First messages of TLS, and requests of HTTP/2, as no usual client sends them. Prints a name and what came of it, one a line."""

import os
import socket
import ssl
import struct
import sys

TIMEOUT = 60
ALERTS = {49: "access denied", 80: "internal error", 112: "unrecognized name"}
HOST = "api.example"


def hello(name):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def hidden(record):
    """The same hello with what says that another one is hidden in it (RFC 9849, section 5)."""
    body = record[9:]
    at = 34
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    inside = struct.pack("!BHHBH", 0, 1, 1, 7, 32) + bytes(32) + struct.pack("!H", 100) + bytes(100)
    extensions = body[at + 2 :] + struct.pack("!HH", 0xFE0D, len(inside)) + inside
    body = body[:at] + struct.pack("!H", len(extensions)) + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack("!H", len(message)) + message


def answer_to(host, first):
    with socket.create_connection((host, 443), TIMEOUT) as stream:
        stream.settimeout(TIMEOUT)
        stream.sendall(first)
        got = stream.recv(7)
        if got[:1] == b"\x15":
            return "alert " + ALERTS.get(got[6], str(got[6]))
        return "server hello" if got[:1] == b"\x16" else f"{got!r}"


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream) + payload


def block(pairs):
    """Headers, each as it is and kept in no table (RFC 7541, section 6.2.2)."""
    out = b""
    for name, value in pairs:
        out += b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return out


def read_exactly(stream, count):
    data = b""
    while len(data) < count:
        piece = stream.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def requests(*all_headers):
    """Requests one after the other on one connection. The first line of each answer, or what came instead."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    said = []
    with socket.create_connection((HOST, 443), TIMEOUT) as plain:
        with context.wrap_socket(plain, server_hostname=HOST) as stream:
            stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
            for number, headers in enumerate(all_headers):
                stream.sendall(frame(1, 5, 2 * number + 1, block(headers)))
                body, is_over = b"", False
                while not is_over:
                    try:
                        head = read_exactly(stream, 9)
                        payload = read_exactly(stream, int.from_bytes(head[:3], "big"))
                    except (EOFError, OSError):
                        return " | ".join(said + ["closed"])
                    kind, flags = head[3], head[4]
                    if kind == 0:
                        body += payload
                    if kind in (3, 7):
                        return " | ".join(said + [{3: "reset", 7: "goaway"}[kind]])
                    is_over = kind in (0, 1) and flags & 1
                said.append(body.decode().split("\n")[0])
    return " | ".join(said)


def asked(authority=None, host=None, method="GET"):
    headers = [(":method", method)]
    if method != "CONNECT":
        headers += [(":scheme", "https"), (":path", "/")]
    if authority:
        headers.append((":authority", authority))
    if host:
        headers.append(("host", host))
    return headers + [("k", os.environ["API_KEY"])]


def attempt(name, work):
    try:
        print(name, work(), flush=True)
    except OSError as error:
        print(name, type(error).__name__, flush=True)


attempt("hidden", lambda: answer_to(HOST, hidden(hello(HOST))))
attempt("hidden_unopened", lambda: answer_to("other.example", hidden(hello("other.example"))))
attempt("unnamed", lambda: answer_to(HOST, hello(None)))
attempt("named_otherwise", lambda: answer_to(HOST, hello("other.example")))
if sys.argv[1] == "limited":
    attempt("same", lambda: requests(asked(HOST)))
    attempt("both", lambda: requests(asked(HOST, HOST)))
    attempt("host_alone", lambda: requests(asked(None, HOST)))
    attempt("neither", lambda: requests(asked()))
    attempt("authority_other", lambda: requests(asked("other.example")))
    attempt("authority_other_host_same", lambda: requests(asked("other.example", HOST)))
    attempt("host_other", lambda: requests(asked(HOST, "other.example")))
    attempt("port_other", lambda: requests(asked(HOST + ":8443")))
    attempt("user", lambda: requests(asked("other.example@" + HOST)))
    attempt("second", lambda: requests(asked(HOST), asked("other.example"), asked(HOST)))
    attempt("connect", lambda: requests(asked("other.example:443", method="CONNECT")))
