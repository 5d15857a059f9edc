"""How a run is started, on Flower or in process, and watched."""
