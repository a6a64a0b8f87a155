"""Heads: from an embedding to logits."""

import pytest
import torch

from ser_cli.models.heads import LinearHead


def test_two_layers_are_those_of_the_label_adaptive_mixup_paper():
    head = LinearHead(6, 3, hidden_dim=4).double()
    embedding = torch.randn(5, 6, dtype=torch.float64)
    output = head(embedding, embedding[:, None], torch.ones(5, 1, dtype=torch.bool))
    f0 = embedding @ head.hidden.weight.T + head.hidden.bias
    f1 = f0 @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(output.classifier_input, f0)
    torch.testing.assert_close(output.logits, f1)


def test_one_layer_reads_the_embedding_itself():
    head = LinearHead(6, 3)
    embedding = torch.randn(5, 6)
    output = head(embedding, embedding[:, None], torch.ones(5, 1, dtype=torch.bool))
    assert output.classifier_input is embedding
    assert head.classifier_input_dim == 6
    assert {name for name, _ in head.named_parameters()} == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("hidden_dim", [0, 4])
def test_dropout_stands_before_the_last_layer_alone(hidden_dim):
    head = LinearHead(6, 3, hidden_dim=hidden_dim, dropout=0.999_999).train()
    output = head(torch.ones(5, 6), torch.ones(5, 1, 6), torch.ones(5, 1, dtype=torch.bool))
    torch.testing.assert_close(output.logits, head.classifier.bias.expand(5, 3))
    assert output.classifier_input.abs().min() > 0
