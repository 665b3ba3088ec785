"""For the tests of every package: repeatable examples, and one thread, since the tensors are small."""

import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
torch.set_num_threads(1)
