"""Mistakes that a type checker finds before anything is run; each line with a mistake ends in `# error`."""

from sagips_kit import Every, Leaders, Measurement, Proxy, Ring, RunSpec, Settings

RunSpec(problem=Proxy(), store="runs/a.zarr", n_step=100)  # error
Settings(precision="float16")  # error
Ring("weights")  # error
RunSpec(problem=Proxy, store="runs/a.zarr")  # error
Every(Ring(), 100)  # error
Leaders(Ring(), groups=4)  # error
Measurement(lambda theta: theta[0], 1.0, sigma=0.1)  # error
