"""Fit a robust line to real data with SciPy, beside least squares.

International calls from Belgium, 1950-1973, in millions: from 1964 to
1969 another quantity was recorded, and least squares follows it. Data:
P. J. Rousseeuw and A. M. Leroy, Robust Regression and Outlier Detection,
Wiley 1987, https://doi.org/10.1002/0471725382.
"""

from pathlib import Path

import numpy as np
from scipy.optimize import minimize

import smoothl1 as sl

DATA = Path(__file__).parent.parent / "data" / "phones.csv"
BETA = 1.345 * 9.00903  # 1.345 robust standard deviations of the residuals


def fit(year, calls, beta):
    """Intercept and slope of the line with the least mean smooth L1 loss."""
    design = np.column_stack([np.ones_like(year), year])
    scale = np.abs(design).max(axis=0)  # steps of about equal size for the optimiser

    def objective(coefficients):
        predicted = design @ (coefficients / scale)
        loss, slope = sl.smooth_l1_value_and_grad(predicted, calls, beta=beta)
        return float(loss), design.T @ slope / scale

    options = {"gtol": 1e-10}
    result = minimize(objective, np.zeros(2), jac=True, method="BFGS", options=options)
    return result.x / scale


def main():
    """Print both lines."""
    year, calls = np.loadtxt(DATA, delimiter=",", skiprows=1).T.copy()  # contiguous columns
    slope, intercept = np.polyfit(year, calls, 1)
    robust = fit(year, calls, BETA)
    residual = calls - robust[0] - robust[1] * year
    print(f"calls = intercept + slope * year, {year.size} years, beta = {BETA:.3f}\n")
    print(f"{'':16s}{'intercept':>12s}{'slope':>10s}")
    print(f"{'least squares':16s}{intercept:12.3f}{slope:10.5f}")
    print(f"{'smooth L1':16s}{robust[0]:12.3f}{robust[1]:10.5f}")
    outliers = ", ".join(f"19{y:.0f}" for y in year[np.abs(residual) >= BETA])
    print(f"\nyears in the linear part of the loss: {outliers}")


if __name__ == "__main__":
    main()
