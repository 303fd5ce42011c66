//go:build tools

// Package tools names the programs that ci/actionlint.sh builds, so that go.mod pins them.
package tools

import _ "github.com/rhysd/actionlint/cmd/actionlint"
