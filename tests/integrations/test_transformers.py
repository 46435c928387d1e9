import math

import pytest
import torch

import lpsphere as lp
from lpsphere.neurons import select

transformers = pytest.importorskip("transformers")
integration = pytest.importorskip("lpsphere.integrations.transformers")
SparseTraining = integration.SparseTraining
make_optimizer = lp.SpheresAndAdamW.of_model

VOCABULARY, LENGTH = 20, 12


def gpt():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LENGTH, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def texts(rows=256, labels=False):
    """Rows of counting sequences; their label is whether they begin in the lower half of the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(VOCABULARY, (rows, 1), generator=generator)
    ids = (starts + torch.arange(LENGTH)) % VOCABULARY
    other = (starts < VOCABULARY // 2).long().flatten() if labels else ids
    return [{"input_ids": row, "labels": label} for row, label in zip(ids, other, strict=True)]


def arguments(folder, **more):
    settings = {
        "per_device_train_batch_size": 32, "max_steps": 60, "learning_rate": 3e-3, "logging_steps": 10,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    return transformers.TrainingArguments(str(folder), **{**settings, **more})


def fit(folder, model, callback, *, optimizer=None, data=None, resume=None, **more):
    trainer = transformers.Trainer(
        model, arguments(folder, **more), train_dataset=texts() if data is None else data, callbacks=[callback],
        optimizers=(optimizer, None),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def density(model):
    weights = [neuron.weight for neuron in select(model)]
    return sum(int((weight != 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def test_a_gpt_learns_with_a_tenth_of_its_connections(tmp_path):
    model = gpt()
    trainer = fit(
        tmp_path, model, SparseTraining(sparsity=0.9), optimizer=make_optimizer(model, lr=0.02), max_steps=150
    )
    assert density(model) == pytest.approx(0.1, abs=2e-3)
    assert set(model.state_dict()) == set(gpt().state_dict())
    logs = [entry for entry in trainer.state.log_history if "sparsity" in entry]
    assert logs[-1]["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert logs[0]["sparsity"] < 0.9
    assert all(0 < entry["hoyer"] < 1 for entry in logs)
    assert logs[-1]["loss"] < 0.5 * math.log(VOCABULARY)


def test_every_neuron_of_attention_and_mlp_keeps_its_norm(tmp_path):
    model = gpt()
    before = {n.name: lp.geometry.lp_norm(n.layout.split(n.weight.detach()), 1.2, dim=n.layout.fan_in_dims(n.weight))
              for n in select(model)}  # fmt: skip
    assert set(before) == {
        f"transformer.h.{i}.{name}.weight"
        for i in range(2)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    fit(tmp_path, model, SparseTraining(sparsity=0.5), optimizer=make_optimizer(model), max_steps=20)
    for neuron in select(model):
        dims = neuron.layout.fan_in_dims(neuron.weight)
        norms = lp.geometry.lp_norm(neuron.layout.split(neuron.weight.detach()), 1.2, dim=dims)
        torch.testing.assert_close(norms, before[neuron.name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["rigl", "set"])
def test_a_bert_trains_with_the_trainers_own_optimizer(tmp_path, method):
    model = bert()
    trainer = fit(tmp_path, model, SparseTraining(method, sparsity=0.8), data=texts(labels=True))
    assert density(model) == pytest.approx(0.2, abs=1e-3)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("own", [True, False])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, own):
    def run(folder, resume=None):
        model = gpt()
        optimizer = make_optimizer(model) if own else None
        fit(folder, model, SparseTraining(sparsity=0.8, seed=3), optimizer=optimizer, resume=resume,
            save_strategy="steps", save_steps=20, max_steps=50)  # fmt: skip
        return model.state_dict()

    whole = run(tmp_path)
    again = run(tmp_path, resume=str(tmp_path / "checkpoint-20"))
    for name, expected in whole.items():
        torch.testing.assert_close(again[name], expected, rtol=0, atol=0, msg=name)


def test_a_checkpoint_is_an_ordinary_model_beside_the_methods_state(tmp_path):
    fit(tmp_path, gpt(), SparseTraining("set", sparsity=0.8), save_strategy="steps", save_steps=20, max_steps=20)
    model, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "checkpoint-20", output_loading_info=True)
    assert not info["unexpected_keys"]
    assert density(model) == pytest.approx(0.2, abs=2e-3)


def test_a_checkpoint_elsewhere_is_named(tmp_path):
    model = gpt()
    fit(tmp_path / "a", model, SparseTraining("set", sparsity=0.8), save_strategy="steps", save_steps=20, max_steps=20)
    folder = tmp_path / "a" / "checkpoint-20"
    with pytest.raises(FileNotFoundError, match=r"give SparseTraining\(resume_from=FOLDER\)"):
        fit(tmp_path / "b", gpt(), SparseTraining("set", sparsity=0.8), resume=str(folder), max_steps=30)
    model = gpt()
    fit(tmp_path / "b", model, SparseTraining("set", sparsity=0.8, resume_from=folder), resume=str(folder),
        max_steps=30)  # fmt: skip
    assert density(model) == pytest.approx(0.2, abs=2e-3)


def test_the_best_model_has_its_own_masks(tmp_path):
    model = gpt()
    trainer = transformers.Trainer(
        model,
        arguments(tmp_path, save_strategy="steps", save_steps=20, eval_strategy="steps", eval_steps=20, max_steps=60,
                  load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True),
        train_dataset=texts(), eval_dataset=texts(32), callbacks=[SparseTraining("set", sparsity=0.8)],
    )  # fmt: skip
    trainer.train()  # the worst is taken for the best: that is an early one, with other masks than the last
    best = transformers.GPT2LMHeadModel.from_pretrained(trainer.state.best_model_checkpoint)
    assert not trainer.state.best_model_checkpoint.endswith("-60")
    for name, expected in best.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], expected, rtol=0, atol=0, msg=name)
