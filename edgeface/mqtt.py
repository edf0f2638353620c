"""Events to an MQTT broker, with the documents from which Home Assistant makes its entities."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edgeface.live import Row
from edgeface.sinks import line
from edgeface_runtime import MissingExtraError, UsageError
from edgeface_runtime.checks import read_text

if TYPE_CHECKING:
    from paho.mqtt.client import Client

WAITING = 20_000
"""Messages that wait while the broker is away; further ones are dropped."""
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_FULL = 15  # paho-mqtt's MQTT_ERR_QUEUE_SIZE
_LAST = 5.0  # seconds that the last messages get at the end
# Component, what it is, and the rest of its document: https://www.home-assistant.io/integrations/mqtt/
_ENTITIES: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("sensor", "person", {"value_template": "{{ value_json.person }}", "icon": "mdi:face-recognition"}),
    ("binary_sensor", "occupied", {"value_template": "{{ value_json.occupied }}", "device_class": "occupancy"}),
    ("binary_sensor", "stranger", {"value_template": "{{ value_json.stranger }}", "icon": "mdi:account-question"}),
    (
        "event",
        "visit",
        {
            "event_types": ["appeared", "named", "unknown", "left"],
            "value_template": "{{ {'event_type': value_json.kind, 'name': value_json.name, "
            "'track': value_json.track, 'score': value_json.score} | tojson }}",
        },
    ),
)


def slug(text: str) -> str:
    """A name as a part of a topic: letters, digits, underscores and hyphens."""
    return re.sub(r"[^\w-]+", "_", text, flags=re.ASCII).strip("_") or "camera"


class Household:
    """Who is before each camera, as its events say."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self.there: dict[str, dict[int, tuple[str | None, bool]]] = {camera: {} for camera in cameras}

    def take(self, row: Row) -> None:
        """Heeds an event of a person."""
        there = self.there[row.camera]
        if row.track is None:
            return
        if row.event == "left":
            there.pop(row.track, None)
        else:
            there[row.track] = (row.name, row.event == "unknown")

    def state(self, camera: str) -> dict[str, object]:
        """The document of the camera's state topic."""
        there = self.there[camera].values()
        names = sorted({name for name, _ in there if name})
        stranger = any(is_unknown for _, is_unknown in there)
        person = ", ".join([*names, *(["unknown"] if stranger else [])]) or ("somebody" if there else "nobody")
        on = {True: "ON", False: "OFF"}
        return {
            "person": person,
            "people": names,
            "count": len(there),
            "occupied": on[bool(there)],
            "stranger": on[stranger],
        }


def discovery(identity: str, camera: str, prefix: str = "homeassistant") -> dict[str, dict[str, object]]:
    """Topic → document, of each entity of one camera."""
    base, own = f"edgeface/{slug(identity)}", slug(camera)
    found: dict[str, dict[str, object]] = {}
    for component, what, rest in _ENTITIES:
        unique = f"edgeface_{slug(identity)}_{own}_{what}"
        topic = f"{base}/{own}/{'event' if component == 'event' else 'state'}"
        found[f"{prefix}/{component}/{unique}/config"] = {
            "name": f"{camera} {what}",
            "unique_id": unique,
            "default_entity_id": f"{component}.{unique}",
            "state_topic": topic,
            **({"json_attributes_topic": topic} if component == "sensor" else {}),
            **rest,
            "availability": [{"topic": f"{base}/status"}, {"topic": f"{base}/{own}/available"}],
            "availability_mode": "all",
            "device": {"identifiers": [f"edgeface_{slug(identity)}"], "name": identity, "model": "edgeface"},
        }
    return found


@contextlib.contextmanager
def publisher(
    address: str, identity: str, cameras: Sequence[str], password_file: Path | None, note: Callable[[str], None]
) -> Iterator[Callable[[Row], None]]:
    """Takes events and publishes them; connects in the background, and again when the broker was away.

    Args:
        address: ``mqtt://user@host:1883``, or ``mqtts://`` for TLS.
        identity: names this device in topics.
        cameras: their names, as in the events.
        password_file: holds the broker's password.
        note: is told of what is amiss.

    Raises:
        UsageError: the address or the file does not fit.
        MissingExtraError: paho-mqtt is absent.
    """
    place = urlsplit(address)
    if place.scheme not in _PORTS or not place.hostname or place.password:
        raise UsageError("--mqtt takes mqtt://user@host:1883 or mqtts://…; the password goes into --mqtt-password-file")
    try:
        password = read_text(password_file, 10_000).strip() if password_file else None
        port = place.port or _PORTS[place.scheme]
    except (OSError, ValueError) as error:
        raise UsageError(f"--mqtt: {getattr(error, 'strerror', None) or error}: {password_file or 'port'}") from error
    client = _client(identity)
    if place.username:
        client.username_pw_set(place.username, password)
    if place.scheme == "mqtts":
        client.tls_set()
    base = f"edgeface/{slug(identity)}"
    household, lost, turn = Household(cameras), set[str](), threading.Lock()
    # Of each message that the broker has not acknowledged, the oldest first, whether it is an event.
    under_way: deque[bool] = deque()
    dropped = 0

    def send(topic: str, document: object, retain: bool = True) -> None:
        nonlocal dropped
        payload = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
        under_way.append(not retain)
        if client.publish(topic, payload, qos=1, retain=retain).rc == _FULL:
            under_way.pop()
            dropped += not retain
            if not retain and dropped == 1:
                note("the MQTT broker is away for too long: events are dropped from here on")

    def present() -> None:
        with turn:
            for camera in cameras:
                for topic, document in discovery(identity, camera).items():
                    send(topic, document)
                send(f"{base}/{slug(camera)}/state", household.state(camera))
                send(f"{base}/{slug(camera)}/available", "offline" if camera in lost else "online")
            send(f"{base}/status", "online")

    def connected(_: object, __: object, ___: object, reason: object, ____: object) -> None:
        if getattr(reason, "is_failure", False):
            note(f"MQTT broker {place.hostname}: {reason}")
            return
        client.subscribe("homeassistant/status", qos=1)
        present()

    def disconnected(_: object, __: object, ___: object, reason: object, ____: object) -> None:
        if getattr(reason, "is_failure", False):
            note(f"MQTT broker {place.hostname}: connection lost ({reason}); connecting again")

    def acknowledged(_: object, __: object, ___: object, ____: object, _____: object) -> None:
        under_way.popleft()

    def publish(row: Row) -> None:
        with turn:
            if row.event in ("lost", "back"):
                (lost.add if row.event == "lost" else lost.discard)(row.camera)
                send(f"{base}/{slug(row.camera)}/available", "offline" if row.event == "lost" else "online")
            household.take(row)
            send(f"{base}/{slug(row.camera)}/event", line(row), retain=False)
            send(f"{base}/{slug(row.camera)}/state", household.state(row.camera))

    client.on_connect, client.on_disconnect = connected, disconnected
    client.on_publish = acknowledged
    client.on_connect_fail = lambda *_: note(f"MQTT broker {place.hostname}: no connection; trying again")
    # Home Assistant has started: it asks who is there.
    client.on_message = lambda *message: present() if message[-1].payload == b"online" else None
    client.will_set(f"{base}/status", "offline", qos=1, retain=True)
    client.connect_async(place.hostname, port, keepalive=30)
    client.loop_start()
    try:
        yield publish
    finally:
        with turn:
            under_way.append(False)
            last = client.publish(f"{base}/status", "offline", qos=1, retain=True)
        with contextlib.suppress(RuntimeError, ValueError):  # not connected, or the queue is full
            last.wait_for_publish(_LAST)
        client.disconnect()
        client.loop_stop()
        if missing := sum(under_way) + dropped:
            events = "1 event was" if missing == 1 else f"{missing} events were"
            note(f"MQTT broker {place.hostname}: {events} not delivered")


def _client(identity: str) -> Client:
    try:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion
    except ModuleNotFoundError as error:
        raise MissingExtraError("paho", "mqtt") from error
    client = Client(CallbackAPIVersion.VERSION2, client_id=f"edgeface-{slug(identity)}", clean_session=False)
    client.reconnect_delay_set(1, 30)
    client.max_queued_messages_set(WAITING)
    return client
