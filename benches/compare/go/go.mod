module lapwing-compare

go 1.19
