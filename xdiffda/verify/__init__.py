"""Verification: scores, calibration, spectra, balance, and what observations say.

Fields are weighted by area and stay lazy on dask.  Functions of observations compute the
states one analysis time at a time, and nothing before they are called.  Every result
carries its protocol in ``attrs["protocol"]``.

============================  ==========================================================
`verify`                      RMSE, bias, fair CRPS, spread and spread/skill
`rank_histogram`, `flatness`  ranks of truth or observations; chi-square, slope, U or dome
`spread_error`                error in bins of the ensemble spread
`reliability`                 observed frequency by forecast probability; Brier score
`zonal_spectrum`              variance by zonal wavenumber; `total_spectrum` by total
`balance`                     departure from geostrophic wind, divergence, vorticity
`equivalents`                 states seen as the observations see them
`innovation_statistics`       chi-square and the diagnostics of Desroziers et al. (2005)
`degrees_of_freedom`          for signal; `observation_impact` per variable and kind
`split_obs`                   withhold stations; `withheld_report` says whether it helped
`initial_shock`               first tendency of a forecast over that from the truth
`lead_time_loss`              hours that a forecast is behind a reference
============================  ==========================================================
"""

from __future__ import annotations

from xdiffda.verify.balance import balance, divergence_vorticity, geostrophic_wind, initial_shock
from xdiffda.verify.influence import degrees_of_freedom, observation_impact
from xdiffda.verify.innovations import innovation_chi_square, innovation_statistics
from xdiffda.verify.lead_time import lead_time_loss
from xdiffda.verify.obs_space import equivalents
from xdiffda.verify.ranks import flatness, rank_histogram
from xdiffda.verify.reliability import reliability, spread_error
from xdiffda.verify.scores import PROTOCOL, increment, verify
from xdiffda.verify.spectra import total_spectrum, zonal_spectrum
from xdiffda.verify.table import skill_table
from xdiffda.verify.withheld import split_obs, withheld_report

__all__ = [
    "PROTOCOL",
    "balance",
    "degrees_of_freedom",
    "divergence_vorticity",
    "equivalents",
    "flatness",
    "geostrophic_wind",
    "increment",
    "initial_shock",
    "innovation_chi_square",
    "innovation_statistics",
    "lead_time_loss",
    "observation_impact",
    "rank_histogram",
    "reliability",
    "skill_table",
    "split_obs",
    "spread_error",
    "total_spectrum",
    "verify",
    "withheld_report",
    "zonal_spectrum",
]
