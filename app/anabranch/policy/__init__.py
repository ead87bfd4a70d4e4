"""The policy layers around a call, one in each module. `stack` defines their order."""
