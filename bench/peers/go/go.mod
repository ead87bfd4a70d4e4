module anabranch-bench-go

go 1.22
