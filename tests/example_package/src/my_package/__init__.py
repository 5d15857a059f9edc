"""A method and an encoder that FedCMI on Flower finds by name once this package is installed."""
