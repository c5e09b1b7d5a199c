module relay/bench/load

go 1.22
