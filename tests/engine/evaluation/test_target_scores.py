"""What a model thought of its targets."""

import pytest
import torch

from sparsedash.engine.evaluation.answers import target_scores
from sparsedash.schema.errors import CalibrationError


def test_a_target_of_two_tokens_gets_the_logarithms_of_both_and_their_ranks():
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    (score,) = target_scores(logits, [[2, 1]])
    assert score.log_likelihoods == pytest.approx(
        [torch.log_softmax(logits[0], 0)[2].item(), torch.log_softmax(logits[1], 0)[1].item()]
    )
    assert (score.ranks, score.choices) == ([1, 2], [2, 0])
    assert score.first_wrong == [2, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_predictions_that_are_no_numbers_are_refused(value):
    logits = torch.zeros(2, 3)
    logits[1, 2] = value
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        list(target_scores(logits, [[0], [1]]))
