from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgeface.training.config import TrainConfig, as_dict, load_config
from edgeface_runtime import UsageError


def test_defaults_then_file_then_settings_then_options(tmp_path: Path):
    file = tmp_path / "train.toml"
    file.write_text('epochs = 3\nlr = 1\ns = 8.0\nbackbone = "x"\n')
    config = load_config(file, ["s=9", "epochs=4"], epochs=5, embedding=None)
    assert (config.lr, config.s, config.epochs, config.backbone) == (1.0, 9.0, 5, "x")
    assert dataclasses.replace(config, lr=3e-3, s=16.0, epochs=25, backbone="mobilefacenet") == TrainConfig()


def test_a_configuration_survives_json():
    config = load_config(settings=["lr=1e-4", "optimiser=sgd", "seed=7", "normalise = imagenet"])
    assert TrainConfig(**json.loads(json.dumps(as_dict(config)))) == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "no setting 'epoch'; the nearest is 'epochs'"),
        ("learning_rate=3", "no setting 'learning_rate'; the nearest is "),
        ("normalize=arcface", "the nearest is 'normalise'"),
        ("=3", "no setting ''"),
        ("epochs", "--set epochs: write it as key=value"),
        ("epochs=many", "setting epochs='many' is not of type int"),
        ("epochs=2.5", "setting epochs=2.5 is not of type int"),
        ("epochs=true", "setting epochs=True is not of type int"),
        ("lr=fast", "setting lr='fast' is not of type float"),
        ("lr=true", "setting lr=True is not of type float"),
        ("backbone=3", "setting backbone=3 is not of type str"),
        ("batch=[40]", r"setting batch=\[40\] is not of type int"),
        ("epochs=0", "--set epochs=0: must be at least 1"),
        ("batch=1", "--set batch=1: must be at least 2"),
        ("lr=0", "--set lr=0.0: must be above 0"),
        ("lr=NaN", "--set lr=nan: must be above 0"),
        ("s=-1", "--set s=-1.0: must be above 0"),
        ("m=2", "--set m=2.0: must be 0 to 1.6 radians"),
        ("size=100", "--set size=100: must be 112 or 224"),
        ("flip=2", "--set flip=2.0: must be 0 to 1"),
        ("warmup=1", "--set warmup=1.0: must be 0 to 1"),
        ("margin_warmup=1.5", "--set margin_warmup=1.5: must be 0 to 1"),
        ("embedding=0", "--set embedding=0: must be at least 1"),
        ("optimiser=adam", "--set optimiser=adam: must be adamw or sgd"),
        ("normalise=none", "--set normalise=none: must be arcface or imagenet"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(setting: str, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        load_config(settings=[setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("epochs = ", "train.toml: "), ("[net]\nepochs = 3\n", "no setting 'net'"), ('lr = "1"', "lr='1' is not of type")],
)
def test_a_file_that_does_not_fit_is_named(text: str, message: str, tmp_path: Path):
    (tmp_path / "train.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(tmp_path / "train.toml")


def test_no_such_file(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none\.toml: .*No such file"):
        load_config(tmp_path / "none.toml")
