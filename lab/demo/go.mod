module nordmesh/demo

go 1.26
