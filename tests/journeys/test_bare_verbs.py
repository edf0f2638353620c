"""Every verb that the pages promise on a device does there what they say."""

from __future__ import annotations

import json
from typing import Any

import pytest


def document(done: Any) -> Any:
    """The JSON on stdout, of schema 1."""
    found = json.loads(done.stdout)
    assert found["schema"] == 1
    return found


def test_models_are_listed_and_hold(bare: Any):
    models = document(bare.run("edgeface models --json"))["models"]
    assert [model["file"] for model in models if model["default"]] == ["mobilefacenet.int8.tflite"]
    listed = bare.run("edgeface models").stdout
    for model in models:
        assert model.keys() >= {"backbone", "format", "precision", "size_bytes", "sha256", "licence", "accuracy"}
        assert model["file"] in listed
        shown = document(bare.run(f"edgeface inspect {model['path']} --json"))
        assert shown["golden"]["ok"]
        assert {key: shown[key] for key in ("sha256", "size_bytes", "format")} == {
            key: model[key] for key in ("sha256", "size_bytes", "format")
        }
    assert "golden" in bare.run("edgeface inspect net.int8.tflite").stdout


def test_bench_measures_here(bare: Any):
    command = "edgeface bench mobilefacenet.tflite mobilefacenet.onnx --calls 10"
    rows = document(bare.run(f"{command} --json --output here.json"))["rows"]
    assert [(row["engine"], row["source"]) for row in rows] == [("litert", "measured"), ("onnxruntime", "measured")]
    assert all(0 < row["p50_ms"] <= row["p90_ms"] and row["peak_mb"] > 10 for row in rows)
    assert json.loads((bare.here / "here.json").read_text())["rows"] == rows
    assert "p50" in bare.run(f"{command} --fail-if 'p50>10000'").stdout
    assert "failed" in bare.run(f"{command} --fail-if 'p50>0.001'", code=1).stderr
    (row,) = document(bare.run("edgeface bench mobilefacenet --calls 10 --data family/ --json"))["rows"]
    assert row["top1"] > 0.9


def test_bench_estimates_for_a_board(bare: Any):
    rows = document(bare.run("edgeface bench mobilefacenet --device rpi-4b --json"))["rows"]
    assert {row["source"] for row in rows} == {"estimated"}
    assert any(row["interval_ms"] for row in rows)
    boards = bare.run("edgeface bench mobilefacenet --device here,rpi-4b,rpi-5 --budget-ms 200 --calls 10").stdout
    assert "Raspberry Pi 4B" in boards
    assert "Raspberry Pi 5" in boards


def test_bench_and_doctor_reach_a_board_by_ssh(bare: Any, ssh: str):
    found = document(bare.run(f"edgeface bench net.int8.tflite --calls 10 {ssh} --json"))
    (row,) = found["rows"]
    assert row["source"] == found["device"]["source"] == "measured"
    assert row["p50_ms"] > 0
    assert row["agreement"]["identical"]  # the same engine on the same processor
    assert "ok" in bare.run(f"edgeface doctor {ssh}").stdout
    refused = bare.run(f"edgeface bench net.int8.tflite --device rpi-5 {ssh}", code=2).stderr
    assert "not a Raspberry Pi 5" in refused


@pytest.mark.parametrize("model", ["mobilefacenet.tflite", "mobilefacenet.onnx"])
def test_profile_names_the_dearest_operators(bare: Any, model: str):
    found = document(bare.run(f"edgeface profile {model} --json"))
    assert found["operators"]


def test_doctor_finds_nothing_wrong(bare: Any):
    findings = document(bare.run("edgeface doctor --json"))["findings"]
    assert {finding["topic"] for finding in findings} >= {"system", "Python", "engine", "memory"}
    assert not [finding for finding in findings if finding["level"] == "wrong"]


def test_devices_are_listed(bare: Any):
    names = {device["name"] for device in document(bare.run("edgeface devices --json"))["devices"]}
    assert names >= {"rpi-3b-plus", "rpi-4b", "rpi-5", "rpi-zero-2w"}
    assert "rpi-zero-2w" in bare.run("edgeface devices").stdout


def test_run_looks_at_a_folder(bare: Any):
    found = document(bare.run("edgeface run --folder photos/ -g known.gallery --output drawn/ --json"))
    assert (found["frames"], found["skipped"]) == (30, 0)
    named = {row["photo"]: face["name"] for row in found["photos"] for face in row["faces"] if face["name"]}
    known = {path.name for path in (bare.here / "photos").glob("[!s]*.jpg")}
    assert named == {name: name.split("-")[0] for name in known}
    assert len(list((bare.here / "drawn").glob("*.jpg"))) == 30


def test_a_gallery_is_renamed_and_exported(bare: Any):
    bare.run("edgeface enroll ada.jpg --name Ada -g people.gallery --int8")
    bare.run('edgeface gallery rename people.gallery Ada "Ada Lovelace"')
    bare.run("edgeface gallery export people.gallery people.json")
    (photo,) = json.loads((bare.here / "people.json").read_text())["photos"]
    assert (photo["name"], len(photo["embedding"])) == ("Ada Lovelace", 128)


def test_one_device_s_gallery_is_merged_into_another_s(bare: Any):
    bare.run("edgeface enroll family/Ada --gallery door.gallery")
    bare.run("edgeface gallery backup known.gallery people.gallery")
    (merged,) = document(bare.run("edgeface gallery merge people.gallery door.gallery --json"))["merged"]
    assert (merged["added"], merged["already_there"], merged["refused"]) == (0, 5, [])
    bare.run("edgeface gallery rename door.gallery Ada Zoe")
    (merged,) = document(bare.run("edgeface gallery merge people.gallery door.gallery --json", code=1))["merged"]
    assert [refusal["name"] for refusal in merged["refused"]] == ["Zoe"]
    bare.run("edgeface gallery import copy.gallery door.gallery --int8")


def test_a_gallery_is_checked_and_its_mistakes_named(bare: Any):
    found = document(bare.run("edgeface gallery check known.gallery --unknown visitors/ --photos family/ --json"))
    assert not [row for row in found["findings"] if row["fault"]]
    assert {(person["name"], person["named"]) for person in found["people"]} == {
        (name, 5) for name in ("Ada", "Ben", "Cleo", "Dan", "Eve")
    }
    assert found["unknown"]["fpir"]["photos"] == 15
    bare.run("mv family/Ada/1.jpg family/Ben/wrong.jpg")
    bare.run("edgeface enroll family/ --force -g mixed.gallery")
    said = bare.run("edgeface gallery check mixed.gallery", code=1).stdout
    assert "(wrong.jpg) of Ben: probably shows Ada" in said


def test_a_model_is_judged_on_people_and_strangers(bare: Any):
    cells = document(bare.run("edgeface eval mobilefacenet --open-set family/ visitors/ --json"))["open_set"]["cells"]
    assert [(cell["people"], cell["photos_each"]) for cell in cells] == [(5, 1), (5, 3)]
    assert all(cell["at"][1]["fnir"]["value"] < 0.2 for cell in cells)


def test_nothing_is_left_in_the_home_folder(bare: Any):
    """An engine that keeps an id and events there would have done so in the tests before this one."""
    for model in ("mobilefacenet.tflite", "mobilefacenet.onnx"):
        bare.run(f"edgeface verify passport.jpg selfie.jpg -m {model}")
    ours = ("edgeface", ".cache/edgeface", ".local/share/edgeface")
    left = {path.relative_to(bare.home).as_posix() for path in bare.home.rglob("*") if path.is_file()}
    assert not [path for path in left if not path.startswith(ours)]
