"""Which flights will be late? Fit on four fifths of them, test on the rest: python examples/flights.py [ROWS]."""

import sys

import numpy as np

import overcast
from overcast.flights import flights, hold_out

X, y, names = flights()
if len(sys.argv) > 1:  # only so many, drawn by chance
    some = np.sort(np.random.default_rng(1).choice(len(y), int(sys.argv[1]), replace=False))
    X, y = X[some], y[some]
train, test = hold_out(len(y))

client = overcast.Client()  # in memory
result = client.solve((X[train], y[train]), loss="logistic", l2=1e-4)

print(f"{result.reason} in {result.n_iter_} iterations and {result.seconds['total']:.2f} seconds")
print(f"accuracy on held-out flights {np.mean(result.predict(X[test]) == y[test]):.2%}")
print("most delaying:", ", ".join(names[j] for j in np.argsort(-result.coef_)[:5]))
