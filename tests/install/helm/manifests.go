// Reads what Helm has rendered, on standard input, as Kubernetes' own types, and names each field that they do not have.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
)

func main() {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			fail(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	read := 0
	for {
		document, err := documents.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			fail(err)
		}
		object, kind, err := decoder.Decode(document, nil, nil)
		if runtime.IsMissingKind(err) {
			continue // Comments alone.
		}
		if err != nil {
			fail(fmt.Errorf("%w\n%s", err, document))
		}
		if set, ok := object.(*appsv1.StatefulSet); ok {
			consistent(set)
		}
		fmt.Println(kind.Kind)
		read++
	}
	if read == 0 {
		fail(fmt.Errorf("nothing was rendered"))
	}
}

// consistent says what the API server asks for beyond the types.
func consistent(set *appsv1.StatefulSet) {
	pod := set.Spec.Template
	for name, value := range set.Spec.Selector.MatchLabels {
		if pod.Labels[name] != value {
			fail(fmt.Errorf("the selector asks for %s=%s, which pods do not have", name, value))
		}
	}
	volumes := map[string]bool{}
	for _, volume := range pod.Spec.Volumes {
		volumes[volume.Name] = true
	}
	for _, claim := range set.Spec.VolumeClaimTemplates {
		volumes[claim.Name] = true
	}
	for _, container := range pod.Spec.Containers {
		for _, mount := range container.VolumeMounts {
			if !volumes[mount.Name] {
				fail(fmt.Errorf("no volume has the name of the mount %s", mount.Name))
			}
		}
		context := container.SecurityContext
		unmasked := context.ProcMount != nil && *context.ProcMount == corev1.UnmaskedProcMount
		if unmasked && (pod.Spec.HostUsers == nil || *pod.Spec.HostUsers) {
			fail(fmt.Errorf("procMount Unmasked is for pods with hostUsers: false"))
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
