module hello-world-wasi-go

go 1.21
