import json

import pytest
import yaml
from safetensors.torch import load_file

QUICK = ("--epochs", 2, "--hidden", "16,16", "--device", "cpu", "--threads", 1)
TABLE = "size,colour,weight,kind\n" + "".join(
    f"{i % 7 + 0.5},{'red' if i % 2 else 'blue'},{i % 5},{'cat' if i % 2 else 'dog'}\n" for i in range(80)
)


def test_train_writes_a_run_and_says_what_came_out(lpsphere, tmp_path):
    status, out, err = lpsphere("train", *QUICK)
    assert (status, err) == (0, "")
    folder = tmp_path / "runs" / "digits-1"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml",
        "history.jsonl",
        "summary.json",
        "model.safetensors",
        "checkpoints",
        "report.html",
    }
    result = json.loads((folder / "summary.json").read_text())
    assert f"{result['test_accuracy']:.4f}" in out
    assert "epoch 2/2" in out
    assert "1,347 rows to train, 450 to test" in out
    assert result["command"] == "lpsphere train --epochs 2 --hidden 16,16 --device cpu --threads 1"
    assert result["sparsity"] == pytest.approx(0.9, abs=1e-3)


def test_each_run_gets_a_folder_of_its_own(lpsphere, tmp_path):
    lpsphere("train", "--data", "wine", *QUICK)
    lpsphere("train", "--data", "wine", *QUICK)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["wine-1", "wine-2"]


def test_evaluate_and_report_work_on_the_folder(lpsphere, tmp_path):
    lpsphere("train", *QUICK, "--out", "run")
    (tmp_path / "run" / "report.html").unlink()
    status, out, _ = lpsphere("evaluate", "run")
    result = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert status == 0
    assert f"test_accuracy  {result['test_accuracy']:.6g}" in out
    status, out, _ = lpsphere("report", "run")
    assert status == 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 20_000


def test_a_table_is_learned_from_its_csv_file(lpsphere, tmp_path):
    (tmp_path / "pets.csv").write_text(TABLE)
    status, _, err = lpsphere(
        "train", "--data", "pets.csv", "--label-column", "kind", "--epochs", 20, "--hidden", "16,16", "--threads", 1,
        "--batch-size", 20, "--sparsity", 0.5, "--device", "cpu", "--out", "run",
    )  # fmt: skip
    assert (status, err) == (0, "")
    result = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert result["test_accuracy"] == 1.0
    assert result["sparsity"] == pytest.approx(0.5, abs=1e-2)


def test_regression_reports_r2_and_the_error_in_the_target_s_unit(lpsphere, tmp_path):
    rows = [f"{i % 9},{i % 4},{100 + 10 * (i % 9) - 5 * (i % 4)}" for i in range(200)]
    (tmp_path / "price.csv").write_text("rooms,age,price\n" + "\n".join(rows) + "\n")
    status, out, err = lpsphere(
        "train", "--data", "price.csv", "--label-column", "price", "--task", "regression", "--epochs", 60,
        "--hidden", "32,32", "--batch-size", 30, "--sparsity", 0.5, "--device", "cpu", "--threads", 1, "--out", "run",
    )  # fmt: skip
    assert (status, err) == (0, "")
    result = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert result["test_r2"] > 0.9
    assert 0 < result["test_rmse"] < 10
    assert "test R2" in out


def test_settings_come_from_a_file_and_options_win(lpsphere, tmp_path):
    (tmp_path / "settings.yaml").write_text("data: wine\nsparsity: 0.5\nregrow: 0.1\nepochs: 9\n")
    status, _, _ = lpsphere("train", "--config", "settings.yaml", *QUICK, "--set", "regrow=0.4", "--out", "run")
    assert status == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (saved["data"], saved["sparsity"], saved["regrow"], saved["epochs"]) == ("wine", 0.5, 0.4, 2)


def test_a_run_is_not_overwritten_unless_asked(lpsphere, tmp_path):
    lpsphere("train", *QUICK, "--out", "run")
    status, _, err = lpsphere("train", *QUICK, "--out", "run")
    assert status == 2
    assert "run holds a run: continue it with --resume, replace it with --overwrite" in err
    status, _, _ = lpsphere("train", *QUICK, "--seed", 5, "--out", "run", "--overwrite")
    assert status == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seed"] == 5


def test_resume_keeps_the_settings_of_the_run(lpsphere):
    lpsphere("train", *QUICK, "--out", "run")
    status, _, err = lpsphere("train", "--out", "run", "--resume", "--sparsity", 0.5)
    assert status == 2
    assert "was started with sparsity 0.9 (now 0.5)" in err
    status, out, _ = lpsphere("train", "--out", "run", "--resume")
    assert status == 0
    assert "after step 42" in out
    status, _, err = lpsphere("train", "--resume")
    assert status == 2
    assert "--resume needs the run's folder" in err


def test_trackers_are_named_on_the_command_line_and_go_with_the_run(lpsphere, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    status, out, err = lpsphere("train", *QUICK, "--trackers", "tensorboard", "--out", "run")
    assert (status, err) == (0, "")
    assert "trackers  tensorboard" in out
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trackers"] == ["tensorboard"]
    assert len(list((tmp_path / "run" / "trackers" / "lpsphere").glob("events.*"))) == 1
    assert lpsphere("train", "--out", "run", "--resume", "--trackers", "")[0] == 0
    assert lpsphere("train", *QUICK, "--out", "run", "--overwrite")[0] == 0
    assert not (tmp_path / "run" / "trackers").exists()


def test_an_unknown_tracker_is_named(lpsphere):
    status, _, err = lpsphere("train", *QUICK, "--trackers", "tensorbord")
    assert status == 2
    assert "unknown tracker 'tensorbord': choose from" in err


def test_bfloat16_trains_on_the_cpu(tmp_path, run_alone):
    status = run_alone("train", *QUICK, "--mixed-precision", "bf16", "--out", tmp_path / "run")
    assert status == 0
    result = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert result["mixed_precision"] == "bf16"
    assert result["test_accuracy"] > 0.3


def test_reproduce_names_its_experiments(lpsphere):
    status, _, err = lpsphere("reproduce", "everything")
    assert status == 2
    assert "unknown experiment 'everything': choose one of digits, sparsity, grow-init" in err


@pytest.mark.parametrize("command", ["train", "evaluate", "report", "reproduce"])
def test_every_command_explains_itself(lpsphere, command):
    status, out, _ = lpsphere(command, "--help")
    assert status == 0
    assert "Usage: lpsphere" in out


@pytest.mark.parametrize("method", ["static", "set", "rigl", "snip", "gmp", "semi-pruning"])
@pytest.mark.parametrize("optimizer", ["sgd", "lpsgd", "adamw"])
def test_every_method_trains_with_every_optimizer_to_its_exact_sparsity(lpsphere, tmp_path, method, optimizer):
    status, out, err = lpsphere(
        "train", "--data", "wine", *QUICK, "--method", method, "--optimizer", optimizer, "--out", "run", "--set",
        "include_last=true", "--sparsity", 0.8, "--set", "batch_size=8",
    )  # fmt: skip
    assert (status, err) == (0, "")
    result = json.loads((tmp_path / "run" / "summary.json").read_text())
    weights = 13 * 16 + 16 * 16 + 16 * 3
    assert (result["selected_weights"], result["connections"]) == (weights, round(weights * 0.2))
    assert result["method"] == method
    assert 0 < result["training_flops"] < result["training_flops_dense"]
    assert f"{weights:,} weights in 3 tensors (the output layer too)" in " ".join(out.split())


def test_a_setting_that_the_method_does_not_take_is_explained(lpsphere):
    status, _, err = lpsphere("train", "--method", "rigl", "--set", "regrow=0.5", *QUICK)
    assert status == 2
    assert (
        "rigl takes no regrow; its settings are initial_sparsity, begin, end, every, drop_fraction, min_fan_in"
        in " ".join(err.split())
    )


def test_compare_writes_results_a_table_and_a_picture_and_goes_on(lpsphere, tmp_path):
    words = (
        "compare", "--data", "wine", "--methods", "dense,set,semi-pruning", "--sparsities", "0.5", "--trials", 1,
        "--splits", 1, "--seeds", 2, "--epochs", 2, "--set", "hidden=[16]",
    )  # fmt: skip
    status, out, err = lpsphere(*words)
    assert (status, err) == (0, "")
    assert "3 methods: 3 runs to find learning rates (1 for each, on 1 validation splits), 6 runs to test" in out
    for name in ("compare-wine.json", "compare-wine.md", "compare-wine.png"):
        assert (tmp_path / "results" / name).exists()
        assert f"results/{name}" in out
    assert out.count("part test") == 6
    _, out, _ = lpsphere(*words)
    assert "part test" not in out
    assert "semi-pruning (lpsgd)" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "dense,magic"), "unknown method 'magic'"),
        (("--sparsities", "0.9,1.5"), "--sparsities takes different numbers between 0 and 1; got '0.9,1.5'"),
        (("--sparsities", "much"), "--sparsities takes numbers separated by commas, such as 0.9,0.98; got 'much'"),
        (("--reference", "rigl:lpsgd"), "--reference must be one of --methods dense,static,set"),
        (("--reference", "rigl,set"), "got rigl,set"),
    ],
)
def test_a_bad_comparison_is_explained(lpsphere, words, message):
    status, _, err = lpsphere("compare", *words)
    assert status == 2
    assert message in " ".join(err.split())


def test_a_pattern_is_given_on_the_command_line(lpsphere, tmp_path):
    words = ("--method", "set", "--optimizer", "sgd", "--sparsity", 0.5, "--set", "granularity=2:4", "--out", "run")
    status, _, err = lpsphere("train", *QUICK, *words, "--set", "weight_decay=1e-4")
    assert (status, err) == (0, "")
    weight = load_file(tmp_path / "run" / "model.safetensors")["hidden.1.linear.weight"]
    assert ((weight.view(-1, 4) != 0).sum(1) == 2).all()
