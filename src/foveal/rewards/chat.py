"""Asks a server that speaks the OpenAI-compatible chat protocol, and trusts nothing that it answers.

One POST, no redirect is followed, the whole exchange ends by a deadline, and the reply has a largest size.
"""

import base64
import contextlib
import http.client
import io
import ipaddress
import json
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from PIL.Image import Image

from foveal.rewards.tasks import TryLater
from foveal.spec import ConfigError

MAX_REPLY_BYTES = 1 << 20
"""Longest reply that is read."""
MAX_PAUSE_S = 60.0
"""The longest pause that a server can ask for."""
SHOWN = 200
"""Letters of a refusal that are shown."""
LATER = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
"""Statuses after which another attempt may help."""


def check_url(base_url: str) -> SplitResult:
    """The parts of a server's address.

    Raises: ConfigError, when it is none of http or https, or holds a password.
    """
    try:
        parts = urlsplit(base_url)
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ConfigError(f"base_url {base_url!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_sound:
        raise ConfigError(f"base_url is {base_url!r}; expected one such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise ConfigError(
            "base_url holds a user or password, which would be written into the run folder; name an "
            "environment variable in api_key_env instead"
        )
    return parts


def ask(base_url: str, body: Mapping[str, Any], *, key: str | None, timeout_s: float) -> str:
    """The text that the model answers.

    Raises: TryLater, when there is none; final where another attempt is in vain.
    """
    parts = check_url(base_url)
    target = parts.path.rstrip("/") + "/chat/completions" + (f"?{parts.query}" if parts.query else "")
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    connection, target = _connection(parts, target, timeout_s=timeout_s)
    end, over = time.monotonic() + timeout_s, threading.Event()
    watch: threading.Timer | None = None
    try:
        connection.connect()
        watch = threading.Timer(end - time.monotonic(), _cut, args=(connection.sock, over))
        watch.daemon = True
        watch.start()
        connection.request("POST", target, body=json.dumps(body).encode(), headers=headers)
        response = connection.getresponse()
        data = response.read(MAX_REPLY_BYTES + 1)
        status, pause = response.status, response.getheader("Retry-After")
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        # A socket that is cut off while it is read may fail in any of these ways.
        if over.is_set() or isinstance(error, TimeoutError):
            raise TryLater(f"no answer within {timeout_s:g} s") from None
        raise TryLater(_without(f"no connection: {type(error).__name__}: {error}", key)) from None
    finally:
        if watch is not None:
            watch.cancel()
        connection.close()
    if over.is_set():
        raise TryLater(f"no answer within {timeout_s:g} s")
    _require_success(status, data, pause=pause, key=key)
    return _text(data)


def picture_part(image: Image) -> dict[str, Any]:
    """A picture as a part of a message."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def _connection(
    parts: SplitResult, target: str, *, timeout_s: float
) -> tuple[http.client.HTTPConnection, str]:
    """A connection to the server, through the environment's proxy where there is one; and what to ask for."""
    host, port, secure = parts.hostname or "", parts.port, parts.scheme == "https"
    proxy = None if _is_local(host) or proxy_bypass(host) else getproxies().get(parts.scheme)
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    if proxy is None:
        return kind(host, port, timeout=timeout_s), target
    through = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    if not secure:
        connection = http.client.HTTPConnection(through.hostname or "", through.port, timeout=timeout_s)
        return connection, f"{parts.scheme}://{parts.netloc}{target}"
    connection = kind(through.hostname or "", through.port, timeout=timeout_s)
    connection.set_tunnel(host, port)
    return connection, target


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cut(sock: socket.socket, over: threading.Event) -> None:
    """End an exchange whose time is over, also one that sends a letter now and then."""
    over.set()
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _require_success(status: int, data: bytes, *, pause: str | None, key: str | None) -> None:
    """Raises: TryLater, for anything but an answer."""
    if len(data) > MAX_REPLY_BYTES:
        raise TryLater(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise TryLater(
            f"status {status}: redirects are not followed; set base_url to where the server is", final=True
        )
    said = " ".join(data[: 4 * SHOWN].decode("utf-8", "replace").split())[:SHOWN]
    shown = "".join(letter if letter.isprintable() else "?" for letter in said)
    raise TryLater(
        _without(f"status {status}: {shown}", key), after_s=_seconds(pause), final=status not in LATER
    )


def _seconds(pause: str | None) -> float:
    """What Retry-After asks for; a date asks for nothing."""
    try:
        return min(max(float(pause or 0), 0.0), MAX_PAUSE_S)
    except ValueError:
        return 0.0


def _without(message: str, key: str | None) -> str:
    """The message without the key, which a server may repeat."""
    return message.replace(key, "***") if key else message


def _text(data: bytes) -> str:
    """The text of a reply. Raises: TryLater, when it has none, or was not written to its end."""
    try:
        reply = json.loads(data)
        content = reply["choices"][0]["message"]["content"]
        finish = reply["choices"][0].get("finish_reason")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise TryLater(f"the reply is not that of a chat completion ({type(error).__name__})") from None
    if finish == "length":
        raise TryLater("the reply was cut off before its end (finish_reason length); raise max_tokens")
    if finish == "content_filter":
        raise TryLater("the server withheld the reply (finish_reason content_filter)")
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "".join(
            part["text"]
            for part in content
            if isinstance(part, Mapping) and isinstance(part.get("text"), str)
        )
    if not isinstance(content, str):
        raise TryLater(f"the reply's content is {type(content).__name__}; expected text")
    return content
