steps = 60
log_every = 5
