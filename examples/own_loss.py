"""A loss of one's own: the expectile loss, which weighs errors above and below the prediction unequally."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import overcast


@dataclass(frozen=True)
class Expectile(overcast.Loss):
    """|q - [y < z]| (z - y)^2: twice differentiable but for one point; q = 1/2 is least squares."""

    name: ClassVar[str] = "expectile"
    q: float = 0.5

    def weight(self, z, y):
        return np.where(z > y, 1 - self.q, self.q)

    def value(self, z, y):
        return self.weight(z, y) * (z - y) ** 2

    def gradient(self, z, y):
        return 2 * self.weight(z, y) * (z - y)

    def hessian(self, z, y):
        return 2 * self.weight(z, y)


overcast.register_loss(Expectile)

rng = np.random.default_rng(0)
X = rng.uniform(0, 1, (4000, 1))
y = 2 * X[:, 0] + (0.2 + X[:, 0]) * rng.standard_normal(4000)  # spread grows with x
client = overcast.Client()
for q in (0.05, 0.5, 0.95):
    result = client.solve((X, y), loss=Expectile(q=q), l2=1e-9)
    at = result.predict(np.array([[0.0], [1.0]]))
    print(f"expectile {q:.2f}: {at[0]:+.2f} at x = 0, {at[1]:+.2f} at x = 1")
