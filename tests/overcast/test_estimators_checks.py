"""scikit-learn's own checks of estimators, all of them, on every estimator as it comes."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn", reason="the estimators need scikit-learn")

from sklearn.utils.estimator_checks import parametrize_with_checks

from overcast import estimators


@parametrize_with_checks([getattr(estimators, name)() for name in estimators.__all__])
def test_check_estimator(estimator, check):
    check(estimator)
