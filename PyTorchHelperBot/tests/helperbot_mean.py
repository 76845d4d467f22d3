"""A metric for these tests."""

import torch
from helperbot import Metric
from helperbot.distributed import sum_over_ranks


class Mean(Metric):
    """The mean of a value per example, over the examples of all processes.

    `value_of` gets (outputs, batch) and returns the values (n,).
    """

    def __init__(self, name, value_of):
        super().__init__(name)
        self.value_of = value_of
        self.totals = torch.zeros(2, dtype=torch.float64)  # of the values, and how many

    def reset(self):
        self.totals = torch.zeros(2, dtype=torch.float64)

    def update(self, outputs, batch):
        values = self.value_of(outputs, batch)
        self.totals += torch.tensor([values.double().sum(), len(values)])

    def compute(self):
        total, count = sum_over_ranks(self.totals).tolist()
        return total / count
