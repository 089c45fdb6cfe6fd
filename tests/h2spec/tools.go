//go:build tools

// Package tools names what tests/tools.sh builds, so that go.mod keeps its versions.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
