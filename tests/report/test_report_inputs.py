"""Reading a run's folder, and the formats and figures the page is made of."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from run_folders import history, layers, weights, write_run

from lpsphere.report import formats, plots, read_run, write_report
from lpsphere.report.run import magnitudes


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder at '.*nowhere'.*lpsphere train --out"):
        write_report(tmp_path / "nowhere")


def test_a_folder_without_history_is_not_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no history\.jsonl"):
        write_report(tmp_path)


def test_a_history_without_an_epoch_says_to_wait(tmp_path):
    folder = write_run(tmp_path / "run", records=[], finished=False)
    with pytest.raises(ValueError, match="wait for the run's first epoch"):
        read_run(folder)


def test_a_broken_line_is_named_by_its_number(tmp_path):
    folder = write_run(tmp_path / "run")
    path = folder / "history.jsonl"
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1, is not JSON"):
        read_run(folder)


def test_a_line_that_is_no_object_is_shown(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "history.jsonl").write_text("[1, 2]\n")
    with pytest.raises(ValueError, match=r"line 1, is \[1, 2\]"):
        read_run(folder)


@pytest.mark.parametrize(("name", "content"), [("summary.json", "{"), ("config.yaml", "a: [")])
def test_an_unreadable_file_is_named(tmp_path, name, content):
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}' cannot be read"):
        read_run(folder)


def test_a_file_of_the_wrong_kind_is_named(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "config.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ValueError, match=r"config\.yaml' holds list: it must hold one mapping"):
        read_run(folder)


def test_damaged_weights_are_named(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "model.safetensors").write_bytes(b"nonsense, not tensors")
    with pytest.raises(ValueError, match=r"model\.safetensors' is not a readable safetensors file"):
        write_report(folder)


def test_the_last_record_of_a_repeated_epoch_counts(tmp_path):
    records = history(epochs=4)
    again = [{**record, "train_loss": 9.0} for record in records if record.get("epoch") == 3]
    run = read_run(write_run(tmp_path / "run", records=records + again))
    assert [record["epoch"] for record in run.epochs] == [1, 2, 3, 4]
    assert run.epochs[2]["train_loss"] == 9.0


def test_a_run_cannot_be_changed(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    with pytest.raises(AttributeError):
        run.epochs = ()  # type: ignore[misc]


def test_magnitudes_are_those_of_the_connections(tmp_path):
    found = dict(magnitudes(read_run(write_run(tmp_path / "run"))))
    for name, w in weights().items():
        np.testing.assert_array_equal(found[name], np.abs(w[w != 0]).astype(np.float64))


def test_bfloat16_weights_are_read(tmp_path):
    folder = write_run(tmp_path / "run")
    values = np.array([[1.0, -2.5, 0.0, 3.0e-20]], dtype=np.float32)
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    head = json.dumps({"layer1.weight": {"dtype": "BF16", "shape": [1, 4], "data_offsets": [0, len(data)]}})
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head.encode() + data)
    found = dict(magnitudes(read_run(folder)))
    np.testing.assert_allclose(found["layer1.weight"], [1.0, 2.5, 3.0e-20], rtol=2**-7)


def test_the_curves_are_the_history(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    figure = plots.score_figure(run)
    assert figure is not None
    train, test = figure.axes[0].get_lines()
    np.testing.assert_allclose(train.get_ydata(), [100 * record["train_accuracy"] for record in run.epochs])
    np.testing.assert_allclose(test.get_ydata(), [100 * record["test_accuracy"] for record in run.epochs])


def test_turnover_sums_over_the_layers(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    figure = plots.turnover_figure(run)
    assert figure is not None
    dropped = figure.axes[0].get_lines()[0].get_ydata()
    np.testing.assert_array_equal(dropped, [sum(record["dropped"].values()) for record in run.updates])


def test_a_layer_off_the_sphere_has_no_prediction():
    figure = plots.hoyer_figure(layers())
    assert figure is not None
    predicted = figure.axes[0].get_lines()[1].get_xdata()
    np.testing.assert_array_equal(np.isnan(predicted), [False, False, True])


def test_layers_whose_labels_would_be_alike_are_numbered():
    names = [f"encoder.stages.{i}.blocks.self_attention.output.weight" for i in range(3)]
    figure = plots.hoyer_figure([{"layer": name, "hoyer": 0.5} for name in names])
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(set(labels)) == 3
    assert labels[2].startswith("3: encode…")


def test_what_is_not_there_is_not_drawn():
    assert plots.hoyer_figure([{"layer": "a", "hoyer": None}]) is None
    assert plots.magnitude_figure({"a": np.empty(0)}) is None


def test_a_layer_of_equal_weights_can_be_drawn():
    assert plots.magnitude_figure({"a": np.full(5, 0.25), "b": np.array([1e-40])}) is not None


def test_every_axis_is_labelled(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    for figure in (plots.score_figure(run), plots.loss_figure(run)):
        assert figure is not None
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    for figure in (plots.sparsity_figure(run), plots.turnover_figure(run)):
        assert figure is not None
        assert figure.axes[-1].get_xlabel() == "Optimizer step"
        assert all(axes.get_ylabel() for axes in figure.axes)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.percent(0.9861111), "98.61 %"),
        (formats.percent(0.9), "90 %"),
        (formats.percent(None), "–"),
        (formats.percent(float("nan")), "–"),
        (formats.count(1154074), "1,154,074"),
        (formats.count(True), "–"),
        (formats.scientific(1.23e-7), "1.2e-7"),
        (formats.scientific(0.0), "0"),
        (formats.duration(9.13), "9.1 s"),
        (formats.duration(59.97), "1 min 00 s"),
        (formats.duration(3901), "1 h 05 min"),
        (formats.duration(90000), "25.0 h"),
        (formats.plain([1, None, True]), "1, –, yes"),
        (formats.plain({"a": 1.5}), "a: 1.5"),
        (formats.power_of_ten(-12), "10⁻¹²"),
        (plots.short_name("layer1.weight"), "layer1"),
        (plots.short_name("encoder.layers.no11.self_attention.weight"), "encode…no11.self_attention"),
    ],
)
def test_numbers_are_written_for_people(shown, expected):
    assert shown.replace("\N{NO-BREAK SPACE}", " ") == expected
