"""Several processes that train together: started here, or by torchrun, accelerate launch and srun."""
