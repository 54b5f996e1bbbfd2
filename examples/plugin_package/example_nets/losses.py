"""The loss: (outputs, targets) -> the mean in nats."""

from torch.nn import functional


def label_loss(outputs, targets, smoothing=0.0):
    return functional.cross_entropy(outputs["logits"], targets, label_smoothing=smoothing)
