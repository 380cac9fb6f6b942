package main

import (
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// writeKubeconfigs writes those of the administrator, of the components, and of a node that has only a token.
func writeKubeconfigs(p plan, token string) error {
	ca, err := os.ReadFile(p.certificate("ca"))
	if err != nil {
		return err
	}
	for _, name := range []string{"admin", kubeControllerManager, kubeScheduler} {
		user := &api.AuthInfo{}
		if user.ClientCertificateData, err = os.ReadFile(p.certificate(name)); err != nil {
			return err
		}
		if user.ClientKeyData, err = os.ReadFile(p.key(name)); err != nil {
			return err
		}
		if err := writeKubeconfig(p, name, ca, user); err != nil {
			return err
		}
	}
	return writeKubeconfig(p, "bootstrap", ca, &api.AuthInfo{Token: token})
}

func writeKubeconfig(p plan, name string, ca []byte, user *api.AuthInfo) error {
	const cluster = "devcluster"
	config := api.NewConfig()
	config.Clusters[cluster] = &api.Cluster{Server: p.server(), CertificateAuthorityData: ca}
	config.AuthInfos[name] = user
	config.Contexts[cluster] = &api.Context{Cluster: cluster, AuthInfo: name}
	config.CurrentContext = cluster
	return clientcmd.WriteToFile(*config, p.kubeconfig(name))
}

// loadKubeconfig is how this process connects with one of them: without a limit on its rate.
func loadKubeconfig(p plan, name string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", p.kubeconfig(name))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return config, nil
}
