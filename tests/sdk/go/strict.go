// Package sdktests drives a Rota server with the official Go SDK.
package sdktests

import (
	"fmt"
	"reflect"

	"github.com/anthropics/anthropic-sdk-go/v2/packages/respjson"
)

// misfits names each required field that a response lacks, each field whose value is not of its type, and each field
// that the SDK's types do not know. The SDK itself takes all three in silence, but records them beside every struct.
func misfits(response any) []string {
	return walk(reflect.ValueOf(response), "")
}

func walk(value reflect.Value, path string) []string {
	switch value.Kind() {
	case reflect.Pointer, reflect.Interface:
		if value.IsNil() {
			return nil
		}
		return walk(value.Elem(), path)
	case reflect.Slice:
		var found []string
		for i := range value.Len() {
			found = append(found, walk(value.Index(i), fmt.Sprintf("%s[%d]", path, i))...)
		}
		return found
	case reflect.Struct:
		variant := value.MethodByName("AsAny")
		if !variant.IsValid() {
			return walkStruct(value, path)
		}
		found := variant.Call(nil)[0]
		if found.IsNil() {
			return []string{path + " is none of " + value.Type().Name()}
		}
		return walk(found, path)
	}
	return nil
}

func walkStruct(value reflect.Value, path string) []string {
	record := value.FieldByName("JSON")
	if !record.IsValid() {
		return nil
	}
	var found []string
	// A type with a field of its own for what else may come, such as a JSON schema, knows every name.
	open := value.FieldByName("ExtraFields").IsValid()
	if extra := record.FieldByName("ExtraFields"); extra.IsValid() && !open {
		for _, name := range extra.MapKeys() {
			found = append(found, fmt.Sprintf("%s.%s is not documented", path, name))
		}
	}
	for i := range value.NumField() {
		field := value.Type().Field(i)
		recorded := record.FieldByName(field.Name)
		if !recorded.IsValid() || field.Name == "JSON" || field.Name == "ExtraFields" {
			continue
		}
		received := recorded.Interface().(respjson.Field)
		inner := path + "." + field.Tag.Get("json")
		switch {
		case received.Raw() == respjson.Omitted:
			if field.Tag.Get("api") == "required" {
				found = append(found, inner+" is missing")
			}
		case received.Raw() == respjson.Null:
		case !received.Valid():
			found = append(found, fmt.Sprintf("%s is not a %s: %s", inner, field.Type, received.Raw()))
		default:
			found = append(found, walk(value.Field(i), inner)...)
		}
	}
	return found
}
