from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Workload:
    size: int = 10
    dtype: type = np.float32
    initial_x: tuple = (2, 7)
    num_actions: int = 5

    @property
    def num_states(self):
        return self.size**2
