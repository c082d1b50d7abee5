"""The folder of one trial: what its files mean, who reads them and who writes them."""
