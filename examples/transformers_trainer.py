"""A small BERT trained sparsely by Hugging Face's Trainer; needs pip install "lpsphere[transformers]".

It learns to tell in which sentences words of the first half of the vocabulary are in the majority. The model is made
from a configuration: nothing is downloaded.
"""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import lpsphere as lp
from lpsphere.integrations.transformers import SparseTraining

WORDS, LENGTH = 30, 15


def sentences(count, seed):
    """Sentences of random words, and whether most of them are from the first half of the vocabulary."""
    ids = torch.randint(WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    labels = ((ids < WORDS // 2).sum(1) > LENGTH // 2).long()
    return [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]


if __name__ == "__main__":
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=LENGTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    optimizer = lp.SpheresAndAdamW.of_model(model, p=1.3, lr=0.02, adam_lr=2e-3)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=300, per_device_train_batch_size=64, logging_steps=100, save_strategy="no",
            report_to="none", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            model,
            arguments,
            train_dataset=sentences(4096, seed=0),
            eval_dataset=sentences(512, seed=1),
            compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
            callbacks=[SparseTraining("semi-pruning", sparsity=0.8)],
            optimizers=(optimizer, None),
        )
        trainer.train()
        accuracy = trainer.evaluate()["eval_accuracy"]
    print(lp.summary(model))
    print(f"accuracy {accuracy:.4f}")
