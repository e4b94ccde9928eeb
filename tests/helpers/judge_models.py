"""Judges that give every text the same logits."""

from pathlib import Path

from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast


def classifier(folder: Path, labels: tuple[str, ...], bias: tuple[float, ...]) -> Path:
    """A classifier that gives every text the same logits."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        id2label=dict(enumerate(labels)), label2id={v: k for k, v in enumerate(labels)},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    model.classifier.weight.data.zero_()
    model.classifier.bias.data = model.classifier.bias.data.new_tensor(bias)
    model.save_pretrained(folder)
    return folder
