"""A Lasso path: penalties from strong to weak, each solve started from the one before."""

import numpy as np

import overcast

rng = np.random.default_rng(0)
n, d = 300, 500
X = rng.standard_normal((n, d))
w = np.zeros(d)
w[:5] = (3.0, -2.0, 1.5, 1.0, -1.0)
y = X @ w + 0.5 * rng.standard_normal(n)

client = overcast.Client()
client.import_data(X, "wide", target=y)
largest = np.abs(X.T @ (y - y.mean())).max() / n  # from here on all coefficients are zero
before = None
for l1 in largest * np.geomspace(1, 0.03, 8):
    job = client.submit("wide", loss="squared", l1=l1, start=before, wait=True)
    result = job.result()
    found = np.flatnonzero(result.coef_)
    print(f"l1 {l1:.3f}: {found.size:3d} columns, first {found[:6].tolist()}, {result.n_iter_} iterations")
    before = job
